//! Ways to objects that no task leads to, without the kernel's symbols: a descriptor of our own, opened for a moment
//! on sysfs, proc or tracefs, is in our own table, and its `struct file` leads to the inode and what that stands for
//! ([`super::own_inode`]). The list of file system types leads to the superblocks of those that have pseudo files.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, OnceLock},
};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};

use super::{
    memory::is_kernel_address,
    module::{ModuleFields, Modules},
};
use crate::btf::{Btf, Resolved};

/// `SYSFS_MAGIC` and `PROC_SUPER_MAGIC` (uapi/linux/magic.h).
pub(super) const SYSFS: i64 = 0x6265_6572;
pub(super) const PROC: i64 = 0x9fa0;
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

    /// The first file system type that is known.
    pub(super) fn first_type(&self) -> Option<u64> {
        self.first_type
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
