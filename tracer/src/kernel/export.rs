//! Exports of the NFS server: entries of its cache hold the exported path, and so do the keys of file handles.

use std::{collections::BTreeMap, os::fd::AsFd as _, path::Path};

use tracer_common::ABSENT;

use super::{
    file::PathAddress,
    found::Found,
    listing::note,
    memory::{is_kernel_address, u64_at},
    module::{CacheFields, ExportFields},
    walk::Walk,
    ways::{PROC, open},
};
use crate::model::{Kind, Text};

/// Chains of a cache (`EXPORT_HASHMAX` is 256), and entries of one, at the most.
const CHAINS_MAX: u32 = 1 << 16;
const ENTRIES_MAX: usize = 1 << 16;
const NAME_MAX: usize = 256;
/// How much of a cache, and of an entry, is searched where their fields are not known; both have more on Linux 5.10.
const SEARCHED: usize = 192;
const SEARCHED_ENTRY: usize = 128;
/// `EXPORT_HASHMAX` and `EXPKEY_HASHMAX` (fs/nfsd/export.c, 5.10).
const CHAINS_OF_EXPORTS: usize = 256;

/// A cache, and where its entries have what ebusy looks for.
struct Cache {
    name: &'static str,
    head: u32,
    client: u32,
    path: u32,
}

impl Walk<'_, '_> {
    /// What the NFS server exports, in our own network namespace.
    pub(super) fn exports(&mut self) {
        if !self.kernel.ways.open() || !Path::new("/proc/net/rpc/nfsd.export").exists() {
            return;
        }
        let cache: CacheFields = self.kernel.ways.module();
        let export: ExportFields = self.kernel.ways.module();
        let caches = [
            Cache {
                name: "nfsd.export",
                head: export.head,
                client: export.client,
                path: export.path,
            },
            Cache {
                name: "nfsd.fh",
                head: export.key_head,
                client: export.key_client,
                path: export.key_path,
            },
        ];
        for of in caches {
            let known = ![cache.table, of.path].contains(&ABSENT);
            let looked_at = if known {
                self.exported(&cache, &of)
            } else {
                self.searched_exports(of.name)
            };
            if looked_at.is_none() {
                note(
                    self.gaps,
                    false,
                    "the exports of the NFS server could not be looked at",
                );
            }
        }
    }

    /// `None` if the cache could not be read.
    fn exported(&mut self, cache: &CacheFields, of: &Cache) -> Option<()> {
        let memory = self.kernel.memory;
        let absent = [cache.name, cache.size, cache.table, cache.link, of.head, of.path];
        if absent.contains(&ABSENT) {
            return None;
        }
        let detail = self.cache_detail(of.name, cache)?;
        let size = memory.half(detail, cache.size)?.min(CHAINS_MAX);
        let table = memory.word(detail, cache.table)?;
        let chains: Vec<u64> = (0..u64::from(size))
            .map(|chain| table.wrapping_add(chain * 8))
            .collect();
        let mut entries = Vec::new();
        for first in memory.words(&chains, 0).into_iter().flatten() {
            if is_kernel_address(first) {
                let links = memory.chase(first, 0, 0, ENTRIES_MAX).nodes;
                entries.extend(links.into_iter().map(|link| {
                    link.wrapping_sub(u64::from(cache.link))
                        .wrapping_sub(u64::from(of.head))
                }));
            }
        }
        // A client may have many keys for one export: one entry.
        let mut found: BTreeMap<(u64, u64, u64), Vec<u64>> = BTreeMap::new();
        for (entry, path) in self.paths_at(&entries, of.path) {
            let client = memory.word(entry, of.client).unwrap_or(0);
            found
                .entry((path.mount, path.dentry, client))
                .or_default()
                .push(entry);
        }
        for ((mount, dentry, client), entries) in found {
            let name = memory
                .word(client, cache.domain_name)
                .and_then(|name| memory.string(name, NAME_MAX));
            let path = PathAddress { mount, dentry };
            self.found.push(Found {
                refs: entries.len() as u64,
                held_by: name.map(Text::from),
                ..Found::new(Kind::NfsExport, entries.into_iter().min().unwrap_or(client), path)
            });
        }
        Some(())
    }

    /// The same where the types of the modules are not known (Linux 5.10). Of a cache its table is found, whose chains
    /// lead back to it; of an entry, which begins with its link, the only path on a mount of interest.
    fn searched_exports(&mut self, name: &str) -> Option<()> {
        let kernel = self.kernel;
        let memory = kernel.memory;
        let t = &kernel.layout.table;
        let detail = self.proc_entry_data(name)?;
        let batch = memory.read_batch(&[detail], 0, SEARCHED);
        let words = |piece: &[u8]| -> Vec<u64> {
            (0..piece.len() / 8)
                .filter_map(|word| u64_at(piece, word * 8))
                .collect()
        };
        let fields = words(batch.get(0)?);
        let named = |word: &u64| {
            is_kernel_address(*word) && memory.string(*word, NAME_MAX).as_deref() == Some(name.as_bytes())
        };
        if !fields.iter().any(named) {
            return None;
        }
        let mut entries = Vec::new();
        for table in fields.into_iter().filter(|word| is_kernel_address(*word)) {
            let batch = memory.read_batch(&[table], 0, CHAINS_OF_EXPORTS * 8);
            let Some(piece) = batch.get(0) else { continue };
            let chains: Vec<(u64, u64)> = words(piece)
                .into_iter()
                .zip(0_u64..)
                .filter(|(first, _)| *first != 0)
                .map(|(first, chain)| (first, table.wrapping_add(chain * 8)))
                .collect();
            let lead_back = |(first, chain): &(u64, u64)| {
                is_kernel_address(*first) && memory.word(*first, 8) == Some(*chain)
            };
            if chains.iter().all(lead_back) {
                for (first, _) in chains {
                    entries.extend(memory.chase(first, 0, 0, ENTRIES_MAX).nodes);
                }
            }
        }
        for entry in entries {
            let batch = memory.read_batch(&[entry], 0, SEARCHED_ENTRY);
            let Some(piece) = batch.get(0) else { continue };
            let mut paths = words(piece)
                .windows(2)
                .map(|pair| PathAddress {
                    mount: pair[0].wrapping_sub(u64::from(t.mount_mnt)),
                    dentry: pair[1],
                })
                .filter(|path| self.interest.contains(&path.mount) && kernel.fits(*path))
                .collect::<Vec<_>>()
                .into_iter();
            if let (Some(path), None) = (paths.next(), paths.next()) {
                self.found.push(Found::new(Kind::NfsExport, entry, path));
            }
        }
        Some(())
    }

    /// The `cache_detail` that a file of proc stands for.
    fn cache_detail(&self, name: &str, cache: &CacheFields) -> Option<u64> {
        let detail = self.proc_entry_data(name)?;
        let memory = self.kernel.memory;
        let found = memory.string(memory.word(detail, cache.name)?, NAME_MAX)?;
        (found == name.as_bytes()).then_some(detail)
    }

    /// What the directory of a cache in proc stands for.
    fn proc_entry_data(&self, name: &str) -> Option<u64> {
        let (kernel, memory) = (self.kernel, self.kernel.memory);
        let t = &kernel.layout.table;
        if t.proc_inode_inode == ABSENT {
            return None;
        }
        let content = open(format!("/proc/net/rpc/{name}/content"), PROC)?;
        let inode = kernel.own_inode(content.as_fd())?;
        let entry = memory.word(
            inode.wrapping_sub(u64::from(t.proc_inode_inode)),
            t.proc_inode_entry,
        )?;
        memory
            .word(entry, t.proc_entry_data)
            .filter(|data| is_kernel_address(*data))
    }
}
