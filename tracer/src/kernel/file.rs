//! Descriptor tables and open file descriptions.

use std::collections::{HashMap, HashSet};

use tracer_common::ABSENT;

use crate::model::Access;

use super::{
    context::Kernel,
    listing::Listing,
    memory::{is_kernel_address, u32_at, u64_at},
};

/// Descriptors of one table at the most (`sysctl_nr_open_max` is larger, but memory is not).
const DESCRIPTORS_MAX: u32 = 8 << 20;

/// A `struct path` with the mount instead of its `vfsmount`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PathAddress {
    /// The `struct mount`.
    pub mount: u64,
    /// The dentry.
    pub dentry: u64,
}

/// An open descriptor: table, number, `struct file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the `files_struct`.
    pub table: u64,
    /// Number.
    pub fd: u32,
    /// Address of the `struct file`.
    pub file: u64,
}

impl Kernel<'_> {
    fn path_address(&self, piece: &[u8]) -> Option<PathAddress> {
        let t = &self.layout.table;
        let vfsmount = u64_at(piece, t.path_mnt as usize)?;
        let mount = if vfsmount == 0 {
            0
        } else {
            vfsmount.wrapping_sub(u64::from(t.mount_mnt))
        };
        Some(PathAddress {
            mount,
            dentry: u64_at(piece, t.path_dentry as usize)?,
        })
    }

    /// `struct path`s at `offset` of each address.
    #[must_use]
    pub fn path_addresses(&self, addresses: &[u64], offset: u32) -> Vec<Option<PathAddress>> {
        let batch = self.memory.read_batch(addresses, offset, 16);
        batch.iter().map(|piece| self.path_address(piece?)).collect()
    }

    /// All descriptors of descriptor tables; and whether all could be read.
    #[must_use]
    pub fn descriptors(&self, tables: &[u64]) -> Listing<Vec<Descriptor>> {
        const PIECE: usize = 64;
        let t = &self.layout.table;
        let fdts: Vec<u64> = self
            .memory
            .words(tables, t.files_fdt)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let sizes = self.memory.halves(&fdts, t.fdt_max_fds);
        let arrays = self.memory.words(&fdts, t.fdt_fd);
        let mut complete = true;
        // A table grows with its largest number, and stays large: the bitmap tells which parts of it are in use.
        let bitmaps = self.memory.words(&fdts, t.fdt_open_fds);
        let mut words: Vec<(usize, u32)> = Vec::with_capacity(tables.len());
        let mut addresses: Vec<u64> = Vec::with_capacity(tables.len());
        for index in 0..tables.len() {
            let (Some(size), Some(array), Some(bitmap)) = (sizes[index], arrays[index], bitmaps[index])
            else {
                complete = false;
                continue;
            };
            if size > DESCRIPTORS_MAX || !is_kernel_address(array) || !is_kernel_address(bitmap) {
                complete = false;
                continue;
            }
            for first in (0..size).step_by(PIECE) {
                words.push((index, first));
                addresses.push(bitmap.wrapping_add(u64::from(first) / 8));
            }
        }
        let in_use = self.memory.words(&addresses, 0);
        let mut pieces: Vec<(u64, u32)> = Vec::with_capacity(tables.len());
        addresses.clear();
        for ((index, first), word) in words.into_iter().zip(in_use) {
            complete &= word.is_some();
            if word != Some(0) {
                pieces.push((tables[index], first));
                addresses.push(arrays[index].unwrap_or(0).wrapping_add(u64::from(first) * 8));
            }
        }
        let batch = self.memory.read_batch(&addresses, 0, PIECE * 8);
        let mut found = Vec::new();
        for ((table, first), piece) in pieces.into_iter().zip(batch.iter()) {
            let Some(piece) = piece else {
                complete = false;
                continue;
            };
            for (index, word) in piece.as_chunks::<8>().0.iter().enumerate() {
                let file = u64::from_le_bytes(*word);
                if is_kernel_address(file) {
                    found.push(Descriptor {
                        table,
                        fd: first + index as u32,
                        file,
                    });
                }
            }
        }
        Listing::new(found, complete)
    }

    /// The files that were opened on one of these mounts, with their path: `f_path`, or, for the backing file of an
    /// overlay on Linux 6.8 on, the path in the overlay (kernel fact 12).
    #[must_use]
    pub fn files_on(&self, files: &[u64], mounts: &HashSet<u64>, backing: bool) -> HashMap<u64, PathAddress> {
        let t = &self.layout.table;
        let on = |offset: u32| {
            let paths = self.path_addresses(files, offset);
            let pairs = files
                .iter()
                .copied()
                .zip(paths)
                .filter_map(|(file, path)| Some((file, path?)));
            pairs
                .filter(|(_, path)| mounts.contains(&path.mount))
                .collect::<Vec<_>>()
        };
        let mut found: HashMap<u64, PathAddress> = on(t.file_path).into_iter().collect();
        if backing && t.backing_user_path != ABSENT {
            // An ordinary file has something else there: a pair that fits together is a path.
            found.extend(
                on(t.backing_user_path)
                    .into_iter()
                    .filter(|(_, path)| self.fits(*path)),
            );
        }
        found
    }

    /// Whether mount and dentry of a path belong to the same superblock.
    pub(super) fn fits(&self, path: PathAddress) -> bool {
        let t = &self.layout.table;
        let of_mount = self.memory.word(path.mount, t.mount_sb);
        let of_dentry = self.memory.word(path.dentry, t.dentry_sb);
        of_mount.is_some_and(is_kernel_address) && of_mount == of_dentry
    }

    /// References of open files; 0 where the last one is gone, `None` where there is nothing to read. Up to Linux 6.12
    /// `f_count`; since then a `file_ref_t`, which counts from 0 (`include/linux/file_ref.h`).
    pub(super) fn file_references(&self, files: &[u64]) -> Vec<Option<u64>> {
        /// `FILE_REF_RELEASED`: from here on it counts nothing.
        const RELEASED: u64 = 0xc000_0000_0000_0000;
        let t = &self.layout.table;
        let plain = t.file_count != ABSENT;
        let offset = if plain { t.file_count } else { t.file_ref };
        let counts = self.memory.words(files, offset).into_iter();
        counts
            .map(|count| match count? {
                count if plain => Some(count),
                count if count >= RELEASED => Some(0),
                count => Some(count + 1),
            })
            .collect()
    }

    /// The backing files that overlayfs keeps for an open regular file: found behind its private data, which is the
    /// backing file itself or (Linux 6.13 on) a pair of them; each one proves itself by leading to the same dentry
    /// of the same mount. A file of another file system has none.
    #[must_use]
    pub fn backing_files(&self, file: u64, path: PathAddress) -> Vec<u64> {
        let all = self.behind(file).into_iter();
        all.filter(|(_, found)| *found == path)
            .map(|(file, _)| file)
            .collect()
    }

    /// What may be backing files of an open file, with the path that each leads to.
    pub(super) fn behind(&self, file: u64) -> Vec<(u64, PathAddress)> {
        let t = &self.layout.table;
        let Some(private) = self
            .memory
            .word(file, t.file_private)
            .filter(|word| is_kernel_address(*word))
        else {
            return Vec::new();
        };
        let mut candidates = vec![private];
        let batch = self.memory.read_batch(&[private], 0, 16);
        if let Some(pair) = batch.get(0) {
            candidates.extend([u64_at(pair, 0), u64_at(pair, 8)].into_iter().flatten());
        }
        candidates.retain(|candidate| is_kernel_address(*candidate) && *candidate != file);
        candidates.dedup();
        let offset = if t.backing_user_path == ABSENT {
            t.file_path
        } else {
            t.backing_user_path
        };
        let paths = self.path_addresses(&candidates, offset);
        candidates
            .into_iter()
            .zip(paths)
            .filter_map(|(file, path)| Some((file, path?)))
            .collect()
    }

    /// Whether a file may be written through (`FMODE_WRITE` of `linux/fs.h`, 5.10 to 7.2).
    #[must_use]
    pub fn is_open_for_writing(&self, file: u64) -> bool {
        const WRITE: u32 = 2;
        let mode = self.memory.half(file, self.layout.table.file_mode);
        mode.is_some_and(|mode| mode & WRITE != 0)
    }

    /// `O_*` of a file.
    #[must_use]
    pub fn file_flags(&self, file: u64) -> Option<u32> {
        let batch = self.memory.read_batch(&[file], self.layout.table.file_flags, 4);
        u32_at(batch.get(0)?, 0)
    }
}

/// What a descriptor may be used for.
#[must_use]
pub fn access(flags: u32) -> Access {
    /// `O_PATH` (asm-generic/fcntl.h; the same on x86 and arm64).
    const PATH_ONLY: u32 = 0o10_000_000;
    match flags & 3 {
        _ if flags & PATH_ONLY != 0 => Access::Path,
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::ReadWrite,
    }
}

#[cfg(test)]
mod tests {
    use super::access;
    use crate::model::Access;

    #[test]
    fn access_of_flags() {
        assert_eq!(access(0o2_000_000), Access::Read);
        assert_eq!(access(1), Access::Write);
        assert_eq!(access(2), Access::ReadWrite);
        assert_eq!(access(0o12_000_000), Access::Path);
    }
}
