//! What descriptors of our own lead to: inodes of pseudo file systems, file system types and their superblocks.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    listing::Listing,
    memory::is_kernel_address,
    ways::{SYSFS, open},
};

/// File system types, and superblocks of one of them, at the most.
const TYPES_MAX: usize = 1024;
const SUPERS_MAX: usize = 65_536;

impl Kernel<'_> {
    /// Finds what stays where it is; `events` is the file `available_events` of tracefs.
    #[must_use]
    pub fn fixed_ways(self, events: Option<BorrowedFd<'_>>) -> (Option<u64>, Option<u64>) {
        let t = &self.layout.table;
        let trace_array = events
            .and_then(|events| self.memory.word(self.own_inode(events)?, t.inode_private))
            .filter(|array| is_kernel_address(*array));
        let sysfs = open("/sys", SYSFS)
            .and_then(|sysfs| self.memory.word(self.own_inode(sysfs.as_fd())?, t.inode_sb))
            .and_then(|superblock| self.memory.word(superblock, t.sb_type));
        (trace_array, sysfs)
    }

    /// The inode of a descriptor of our own.
    pub(super) fn own_inode(self, fd: BorrowedFd<'_>) -> Option<u64> {
        let t = &self.layout.table;
        let number = u64::try_from(fd.as_raw_fd()).ok()?;
        let table = self.memory.word(self.ways.task(), t.task_files)?;
        let fdt = self.memory.word(table, t.files_fdt)?;
        let array = self.memory.word(fdt, t.fdt_fd)?;
        let file = self.memory.word(array.checked_add(number * 8)?, 0)?;
        let PathAddress { dentry, .. } = self.path_addresses(&[file], t.file_path).pop()??;
        self.memory
            .word(dentry, t.dentry_inode)
            .filter(|inode| is_kernel_address(*inode))
    }

    /// All file system types; none where there is no way to them.
    pub(super) fn file_system_types(self) -> Vec<u64> {
        let t = &self.layout.table;
        let Some(first) = self.ways.first_type() else {
            return Vec::new();
        };
        if t.fs_type_next == ABSENT {
            let links = self
                .memory
                .chase(first.wrapping_add(u64::from(t.fs_type_list)), 0, 0, TYPES_MAX);
            let base = |link: &u64| link.wrapping_sub(u64::from(t.fs_type_list));
            links.nodes.iter().map(base).collect()
        } else {
            self.memory.chase(first, t.fs_type_next, 0, TYPES_MAX).nodes
        }
    }

    /// The superblocks of a file system type; and whether the list was whole.
    pub(super) fn superblocks_of_type(self, wanted: u64) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        let Some(link) = self.memory.word(wanted, t.fs_type_supers) else {
            return Listing::new(Vec::new(), false);
        };
        let links = self.memory.chase(link, 0, 0, SUPERS_MAX);
        let superblocks: Vec<u64> = links
            .nodes
            .into_iter()
            .map(|link| link.wrapping_sub(u64::from(t.sb_instances)))
            .collect();
        let owners = self.memory.words(&superblocks, t.sb_type);
        let superblocks = superblocks
            .into_iter()
            .zip(owners)
            .filter(|(_, owner)| *owner == Some(wanted))
            .map(|(superblock, _)| superblock)
            .collect();
        Listing::new(superblocks, links.complete)
    }

    /// The superblocks of the file system type of that name.
    pub(super) fn superblocks_of(self, name: &str) -> Vec<u64> {
        let types = self.file_system_types();
        let names = self.memory.words(&types, self.layout.table.fs_type_name);
        let is_it = |pointer: Option<u64>| {
            let found = self.memory.string(pointer?, name.len() + 1)?;
            Some(found == name.as_bytes())
        };
        let wanted = types
            .into_iter()
            .zip(names)
            .find(|(_, pointer)| is_it(*pointer) == Some(true));
        wanted.map_or_else(Vec::new, |(wanted, _)| self.superblocks_of_type(wanted).items)
    }
}
