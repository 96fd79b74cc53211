//! Ways to objects that no task leads to, without the kernel's symbols: a descriptor of our own, opened for a moment
//! on sysfs, proc or tracefs, is in our own table, and its `struct file` leads to the inode and what that stands for.
//! The list of file system types leads to the superblocks of those that have pseudo files.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, OnceLock},
};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    memory::is_kernel_address,
    module::{ModuleFields, Modules},
};
use crate::btf::{Btf, Resolved};

/// `SYSFS_MAGIC` and `PROC_SUPER_MAGIC` (uapi/linux/magic.h).
pub(super) const SYSFS: i64 = 0x6265_6572;
pub(super) const PROC: i64 = 0x9fa0;
/// File system types, and superblocks of one of them, at the most.
const TYPES_MAX: usize = 1024;
const SUPERS_MAX: usize = 65_536;

/// Where the ways begin.
#[derive(Debug, Default)]
pub struct Ways {
    /// Our own task; 0 where there are no ways (recorded memory).
    task: u64,
    /// The trace array of tracefs; it is there as long as the kernel.
    trace_array: Option<u64>,
    /// The first file system type that is known: sysfs, which the kernel registers before all others.
    first_type: Option<u64>,
    /// `TRACE_EVENT_FL_UPROBE`, and the types of BPF links.
    pub(super) values: Values,
    modules: Modules,
    swap_table: OnceLock<Option<u64>>,
}

/// Values of the kernel's enums.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// `TRACE_EVENT_FL_UPROBE`.
    pub(super) event_is_uprobe: Option<u32>,
    /// `BPF_LINK_TYPE_PERF_EVENT`.
    pub(super) perf_link: Option<u32>,
    /// `BPF_LINK_TYPE_UPROBE_MULTI`.
    pub(super) uprobe_multi_link: Option<u32>,
}

impl Ways {
    /// Ways of a live kernel, before any was looked for.
    #[must_use]
    pub fn new(btf: Arc<Btf>, task: u64) -> Self {
        let value = |of, name| u32::try_from(btf.enum_value(of, name)?).ok();
        Self {
            task,
            trace_array: None,
            first_type: None,
            values: Values {
                event_is_uprobe: value("", "TRACE_EVENT_FL_UPROBE"),
                perf_link: value("bpf_link_type", "BPF_LINK_TYPE_PERF_EVENT"),
                uprobe_multi_link: value("bpf_link_type", "BPF_LINK_TYPE_UPROBE_MULTI"),
            },
            modules: Modules::new(btf),
            swap_table: OnceLock::new(),
        }
    }

    /// Finds what stays where it is; `events` is the file `available_events` of tracefs.
    #[must_use]
    pub fn found_by(kernel: Kernel<'_>, events: Option<BorrowedFd<'_>>) -> (Option<u64>, Option<u64>) {
        let t = &kernel.layout.table;
        let trace_array = events
            .and_then(|events| kernel.memory.word(kernel.own_inode(events)?, t.inode_private))
            .filter(|array| is_kernel_address(*array));
        let sysfs = open("/sys", SYSFS)
            .and_then(|sysfs| kernel.memory.word(kernel.own_inode(sysfs.as_fd())?, t.inode_sb))
            .and_then(|superblock| kernel.memory.word(superblock, t.sb_type));
        (trace_array, sysfs)
    }

    /// Keeps what was found.
    #[must_use]
    pub fn with(self, (trace_array, first_type): (Option<u64>, Option<u64>)) -> Self {
        Self {
            trace_array,
            first_type,
            ..self
        }
    }

    /// Ways into memory that leads anywhere.
    #[cfg(test)]
    pub(super) fn anywhere(to: u64) -> Self {
        let values = Values {
            event_is_uprobe: Some(u32::MAX),
            perf_link: Some(1),
            uprobe_multi_link: Some(1),
        };
        let ways = Self {
            task: to,
            values,
            ..Self::default()
        };
        ways.swap_table.get_or_init(|| Some(to));
        ways.with((Some(to), Some(to)))
    }

    /// Whether there are any: not in recorded memory.
    pub(super) fn open(&self) -> bool {
        self.task != 0
    }

    /// Our own task; 0 in recorded memory.
    pub(super) fn task(&self) -> u64 {
        self.task
    }

    /// The fields of a module.
    pub(super) fn module<M: ModuleFields>(&self) -> M {
        self.modules.fields()
    }

    /// Every field of every module, for `doctor`.
    #[must_use]
    pub fn module_fields(&self) -> Vec<Resolved> {
        self.modules.all()
    }

    /// The trace array of tracefs.
    pub(super) fn trace_array(&self) -> Option<u64> {
        self.trace_array
    }

    /// The array `swap_info`. It has a symbol only on kernels with `CONFIG_KALLSYMS_ALL`, and only for those who may
    /// see addresses.
    pub(super) fn swap_table(&self) -> Option<u64> {
        *self
            .swap_table
            .get_or_init(|| symbol(&fs::read("/proc/kallsyms").ok()?, b"swap_info"))
    }
}

/// The address of the kernel's only data symbol of this name.
pub(super) fn symbol(kallsyms: &[u8], name: &[u8]) -> Option<u64> {
    let mut found = None;
    for line in kallsyms.split(|byte| *byte == b'\n') {
        // `address type name`, and a tab and `[module]` for modules.
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(address), Some(_), Some(symbol)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if symbol != name {
            continue;
        }
        let address = std::str::from_utf8(address)
            .ok()
            .and_then(|address| u64::from_str_radix(address, 16).ok())
            .filter(|address| is_kernel_address(*address))?;
        if found.replace(address).is_some() {
            return None;
        }
    }
    found
}

/// Opens a path of a pseudo file system without any effect (`O_PATH`), and sees that it is on one of that type.
pub(super) fn open(path: impl AsRef<Path>, magic: i64) -> Option<OwnedFd> {
    let fd = openat(CWD, path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The width of `f_type` differs between architectures.
    #[allow(clippy::unnecessary_cast, reason = "on some of them it is this type already")]
    let found = fstatfs(&fd).ok()?.f_type as i64;
    (found == magic).then_some(fd)
}

impl Kernel<'_> {
    /// The inode of a descriptor of our own.
    pub(super) fn own_inode(self, fd: BorrowedFd<'_>) -> Option<u64> {
        let t = &self.layout.table;
        let number = u64::try_from(fd.as_raw_fd()).ok()?;
        let table = self.memory.word(self.ways.task, t.task_files)?;
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
        let Some(first) = self.ways.first_type else {
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
    pub(super) fn superblocks_of_type(self, wanted: u64) -> (Vec<u64>, bool) {
        let t = &self.layout.table;
        let Some(link) = self.memory.word(wanted, t.fs_type_supers) else {
            return (Vec::new(), false);
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
        (superblocks, links.complete)
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
        wanted.map_or_else(Vec::new, |(wanted, _)| self.superblocks_of_type(wanted).0)
    }
}

#[cfg(test)]
mod tests {
    use super::symbol;

    #[test]
    fn a_symbol_is_found_if_it_is_the_only_one_and_visible() {
        let text = b"ffffffff81000000 T _text\nffffffff82000010 b swap_info\nffffffffc0000000 d entries\t[binfmt_misc]\n";
        assert_eq!(symbol(text, b"swap_info"), Some(0xffff_ffff_8200_0010));
        assert_eq!(symbol(text, b"entries"), None);
        assert_eq!(symbol(b"0000000000000000 b swap_info\n", b"swap_info"), None);
        assert_eq!(symbol(&[&text[..], text].concat(), b"swap_info"), None);
    }
}
