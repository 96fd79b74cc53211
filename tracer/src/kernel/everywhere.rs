//! All mounts of the host, whoever has them: every superblock knows its mounts, in a namespace or in none.

use std::collections::HashSet;

use tracer_common::ABSENT;

use super::{context::Kernel, listing::Listing, memory::is_kernel_address, mount::Mount};

/// Steps that all lists are followed in at once; longer ones are followed alone.
const STEPS_TOGETHER: usize = 256;
/// `MNT_NS_ANON_INO` (include/linux/nsfs.h, 6.18 and 7.2); before, an anonymous namespace has the number 0.
const ANONYMOUS: u32 = 0xefff_fff7;

/// All mounts.
#[derive(Debug, Clone, Default)]
pub struct AllMounts {
    /// In no particular order.
    pub mounts: Vec<Mount>,
    /// Whether all lists were whole.
    pub complete: bool,
}

/// Where a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the namespace at this address.
    Namespace(u64),
    /// In none, and it was in one: `MNT_DETACH`, or the end of its namespace.
    Detached,
    /// In none, and never was: the kernel's own.
    Internal,
}

impl Kernel<'_> {
    /// Those superblocks that are of the file system type of that name.
    #[must_use]
    pub fn of_type(self, superblocks: &[u64], name: &str) -> HashSet<u64> {
        let t = &self.layout.table;
        let types = self.memory.words(superblocks, t.sb_type);
        let unique: HashSet<u64> = types.iter().copied().flatten().collect();
        let is_it = |of: &u64| {
            let pointer = self.memory.word(*of, t.fs_type_name)?;
            Some(self.memory.string(pointer, name.len() + 1)? == name.as_bytes())
        };
        let wanted: HashSet<u64> = unique.into_iter().filter(|of| is_it(of) == Some(true)).collect();
        let pairs = superblocks.iter().zip(types);
        pairs
            .filter(|(_, of)| of.is_some_and(|of| wanted.contains(&of)))
            .map(|(superblock, _)| *superblock)
            .collect()
    }

    /// All mounts of the host; `None` where the list of file system types cannot be found. What is of a type that is not
    /// registered (nsfs, the first root) is found only by the superblocks that are known already.
    #[must_use]
    pub fn all_mounts(self, known: &HashSet<u64>) -> Option<AllMounts> {
        let types = self.file_system_types();
        if types.is_empty() {
            return None;
        }
        let mut complete = true;
        let mut superblocks = known.clone();
        for of in types {
            let found = self.superblocks_of_type(of).joined_to(&mut complete);
            superblocks.extend(found);
        }
        let superblocks: Vec<u64> = superblocks.into_iter().collect();
        let addresses = self.mounts_of_superblocks(&superblocks).joined_to(&mut complete);
        let mounts = self.mounts(&addresses).into_iter().flatten().collect();
        Some(AllMounts { mounts, complete })
    }

    /// The mounts of superblocks, all lists one step at a time: most have a mount in each namespace, or one.
    fn mounts_of_superblocks(self, superblocks: &[u64]) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        let chain = t.mount_next_for_sb != ABSENT;
        let (offset, link) = if chain {
            (t.mount_next_for_sb, 0)
        } else {
            (0, u64::from(t.mount_instance))
        };
        // Of each list that goes on: its superblock, where it ends, where it is.
        let mut lists: Vec<(u64, u64, u64)> = superblocks
            .iter()
            .zip(self.memory.words(superblocks, t.sb_mounts))
            .filter_map(|(superblock, first)| {
                let end = if chain {
                    0
                } else {
                    superblock.wrapping_add(u64::from(t.sb_mounts))
                };
                Some((*superblock, end, first?))
            })
            .collect();
        let mut complete = lists.len() == superblocks.len();
        let mut found = HashSet::new();
        for _ in 0..STEPS_TOGETHER {
            lists.retain(|(_, end, node)| node != end && is_kernel_address(*node));
            if lists.is_empty() {
                break;
            }
            found.extend(lists.iter().map(|(_, _, node)| node.wrapping_sub(link)));
            let nodes: Vec<u64> = lists.iter().map(|(_, _, node)| *node).collect();
            for (list, next) in lists.iter_mut().zip(self.memory.words(&nodes, offset)) {
                complete &= next.is_some();
                list.2 = next.unwrap_or(list.1);
            }
        }
        for (superblock, ..) in lists {
            let all = self.mounts_of_superblock(superblock).joined_to(&mut complete);
            found.extend(all);
        }
        Listing::new(found.into_iter().collect(), complete)
    }

    /// Where a mount is. What the kernel mounts for itself has an error pointer for a namespace (`MNT_NS_INTERNAL`), or
    /// none (`simple_pin_fs`); what was unmounted has none, and the flag.
    #[must_use]
    pub fn place(self, mount: &Mount) -> Place {
        match mount.namespace {
            0 if mount.flags & self.layout.unmounted != 0 => Place::Detached,
            address if is_kernel_address(address) => Place::Namespace(address),
            _ => Place::Internal,
        }
    }

    /// Number and root mount of mount namespaces; a number of `None` is that of an anonymous one, which has only what
    /// a descriptor of `open_tree`, `fsmount` or the like keeps.
    #[must_use]
    pub fn namespace_roots(self, namespaces: &[u64]) -> Vec<Option<(Option<u32>, u64)>> {
        let t = &self.layout.table;
        let numbers = self.memory.halves(namespaces, t.mnt_ns_inum);
        let roots = self.memory.words(namespaces, t.mnt_ns_root);
        numbers
            .into_iter()
            .zip(roots)
            .map(|(number, root)| {
                let number = Some(number?).filter(|number| *number != 0 && *number != ANONYMOUS);
                Some((number, root?))
            })
            .collect()
    }

    /// What inodes of nsfs stand for, by their dentries: the `ns_common` of a namespace.
    #[must_use]
    pub fn namespaces_of_dentries(self, dentries: &[u64]) -> Vec<Option<u64>> {
        let t = &self.layout.table;
        if t.dentry_inode == ABSENT || t.inode_private == ABSENT {
            return vec![None; dentries.len()];
        }
        let inodes: Vec<u64> = self
            .memory
            .words(dentries, t.dentry_inode)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let found = self.memory.words(&inodes, t.inode_private);
        found
            .into_iter()
            .map(|address| address.filter(|address| is_kernel_address(*address)))
            .collect()
    }

    /// Bytes that a tmpfs has in use, where the kernel counts them: it does unless it was mounted without a limit.
    #[must_use]
    pub fn tmpfs_used(self, superblock: u64) -> Option<u64> {
        let t = &self.layout.table;
        let fields = [t.sb_info, t.shmem_most, t.shmem_used, t.shmem_used_parts];
        if fields.contains(&ABSENT) || self.per_cpu.offsets.is_empty() {
            return None;
        }
        let info = self.memory.word(superblock, t.sb_info)?;
        self.memory.word(info, t.shmem_most).filter(|most| *most != 0)?;
        let base = self.memory.word(info, t.shmem_used)?.cast_signed();
        let parts = self.memory.word(info, t.shmem_used_parts)?;
        let parts: Vec<u64> = self
            .per_cpu
            .offsets
            .iter()
            .map(|cpu| parts.wrapping_add(*cpu))
            .collect();
        let mut pages = base;
        for part in self.memory.halves(&parts, 0) {
            pages = pages.saturating_add(i64::from(part?.cast_signed()));
        }
        let pages = u64::try_from(pages).unwrap_or(0);
        Some(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}
