//! The probe tiers, and what each one hooks.

use std::str::FromStr;

use crate::model::Tier;

/// Whether opens are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum History {
    /// No.
    Off,
    /// Where that costs other system calls nothing: not at the tracepoint tier.
    Cheap,
    /// Yes.
    On,
}

impl History {
    /// Whether they are seen at a tier.
    #[must_use]
    pub fn at(self, tier: Tier) -> bool {
        match self {
            Self::Off => false,
            Self::Cheap => tier != Tier::Tracepoint,
            Self::On => true,
        }
    }
}

/// What `--probe` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that loads.
    #[default]
    Auto,
    /// This one or none.
    Only(Tier),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        let tier = Tier::ALL.into_iter().find(|tier| tier.name() == name);
        tier.map(Self::Only)
            .ok_or_else(|| format!("no probe tier of that name; there are auto, {}", names()))
    }
}

fn names() -> String {
    Tier::ALL.map(Tier::name).join(", ")
}

/// What a hook is for: without the first kind a tier does not work at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Refusals.
    Refusals,
    /// What the busy check compared.
    Counts,
    /// Opens and mount namespaces entered: the history.
    History,
    /// Changes of mount trees.
    Mounts,
    /// System calls other than umount2 that were refused.
    Operations,
}

impl Purpose {
    /// What a tier is without such a hook; `None` if it is nothing.
    pub(crate) fn without(self) -> Option<&'static str> {
        match self {
            Self::Refusals => None,
            Self::Counts => Some("counts are read right after the refusal"),
            Self::History => Some("who opened what, and when, is not all known"),
            Self::Mounts => Some("new mounts are found within 5 s"),
            Self::Operations => Some("its EBUSY is not seen"),
        }
    }
}

/// Where in a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Entry,
    Return,
}

/// A hook of a kernel function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FunctionHook {
    pub(crate) program: &'static str,
    pub(crate) function: &'static str,
    pub(crate) at: At,
    /// Only where the function has so many parameters.
    pub(crate) params: Option<usize>,
    pub(crate) purpose: Purpose,
    /// A kprobe that does the same where tracing programs find no such function: it looks at no argument, or makes sure
    /// that it is what it should be, so that a clone of the function, of which the compiler took arguments away, will
    /// do as well.
    pub(crate) clone: Option<&'static str>,
}

const fn entry(program: &'static str, function: &'static str, purpose: Purpose) -> FunctionHook {
    FunctionHook {
        program,
        function,
        at: At::Entry,
        params: None,
        purpose,
        clone: None,
    }
}

const fn at_return(program: &'static str, function: &'static str, purpose: Purpose) -> FunctionHook {
    FunctionHook {
        at: At::Return,
        ..entry(program, function, purpose)
    }
}

const fn with_params(params: usize, hook: FunctionHook) -> FunctionHook {
    FunctionHook {
        params: Some(params),
        ..hook
    }
}

const fn or_clone(kprobe: &'static str, hook: FunctionHook) -> FunctionHook {
    FunctionHook {
        clone: Some(kprobe),
        ..hook
    }
}

/// The hooks of the fentry tier. Those that end a call come first, so that no end is seen without its beginning
/// being asked for.
pub(crate) const FENTRY_HOOKS: &[FunctionHook] = &[
    at_return("path_umount_exit", "path_umount", Purpose::Refusals),
    at_return("path_umount_exit_again", "path_umount", Purpose::Refusals),
    at_return("busy_check_exit", "propagate_mount_busy", Purpose::Counts),
    at_return("count_exit", "mnt_get_count", Purpose::Counts),
    entry("busy_check_entry", "propagate_mount_busy", Purpose::Counts),
    entry("path_umount_entry", "path_umount", Purpose::Refusals),
    with_params(
        3,
        at_return("do_dentry_open_exit_3", "do_dentry_open", Purpose::History),
    ),
    with_params(
        2,
        at_return("do_dentry_open_exit_2", "do_dentry_open", Purpose::History),
    ),
    entry("fput_entry", "__fput", Purpose::History),
    at_return("copy_mnt_ns_exit", "copy_mnt_ns", Purpose::History),
    entry(
        "switch_namespaces_entry",
        "switch_task_namespaces",
        Purpose::History,
    ),
    at_return("clone_mount_exit", "clone_mnt", Purpose::History),
    or_clone(
        "kprobe_attach_mount_entry",
        entry("attach_mount_entry", "attach_recursive_mnt", Purpose::History),
    ),
    entry("free_mount_entry", "cleanup_mnt", Purpose::History),
    or_clone(
        "kprobe_attach_mount_exit",
        at_return("attach_mount_exit", "attach_recursive_mnt", Purpose::Mounts),
    ),
    at_return("mount_exit", "__x64_sys_mount", Purpose::Operations),
    at_return(
        "mount_setattr_exit",
        "__x64_sys_mount_setattr",
        Purpose::Operations,
    ),
    at_return("fsconfig_exit", "__x64_sys_fsconfig", Purpose::Operations),
    at_return("rmdir_exit", "__x64_sys_rmdir", Purpose::Operations),
    at_return("unlink_exit", "__x64_sys_unlink", Purpose::Operations),
    at_return("unlinkat_exit", "__x64_sys_unlinkat", Purpose::Operations),
    at_return("rename_exit", "__x64_sys_rename", Purpose::Operations),
    at_return("renameat_exit", "__x64_sys_renameat", Purpose::Operations),
    at_return("renameat2_exit", "__x64_sys_renameat2", Purpose::Operations),
    at_return("ioctl_exit", "__x64_sys_ioctl", Purpose::Operations),
    at_return("blkdev_open_exit", "blkdev_open", Purpose::Operations),
];

/// The hooks of the kprobe tier.
pub(crate) const KPROBE_HOOKS: &[FunctionHook] = &[
    at_return("kprobe_path_umount_exit", "path_umount", Purpose::Refusals),
    at_return("kprobe_busy_check_exit", "propagate_mount_busy", Purpose::Counts),
    at_return("kprobe_count_exit", "mnt_get_count", Purpose::Counts),
    entry("kprobe_count_entry", "mnt_get_count", Purpose::Counts),
    entry("kprobe_busy_check_entry", "propagate_mount_busy", Purpose::Counts),
    entry("kprobe_path_umount_entry", "path_umount", Purpose::Refusals),
    entry("kprobe_readahead_set_up", "file_ra_state_init", Purpose::History),
    entry("kprobe_do_dentry_open_entry", "do_dentry_open", Purpose::History),
    entry("kprobe_fput_entry", "__fput", Purpose::History),
    at_return("kprobe_copy_mnt_ns_exit", "copy_mnt_ns", Purpose::History),
    entry(
        "kprobe_switch_namespaces_entry",
        "switch_task_namespaces",
        Purpose::History,
    ),
    or_clone(
        "kprobe_attach_mount_entry",
        entry(
            "kprobe_attach_mount_entry",
            "attach_recursive_mnt",
            Purpose::History,
        ),
    ),
    entry("kprobe_free_mount_entry", "cleanup_mnt", Purpose::History),
    or_clone(
        "kprobe_attach_mount_exit",
        at_return(
            "kprobe_attach_mount_exit",
            "attach_recursive_mnt",
            Purpose::Mounts,
        ),
    ),
    at_return("kprobe_mount_exit", "__x64_sys_mount", Purpose::Operations),
    at_return(
        "kprobe_mount_setattr_exit",
        "__x64_sys_mount_setattr",
        Purpose::Operations,
    ),
    at_return("kprobe_fsconfig_exit", "__x64_sys_fsconfig", Purpose::Operations),
    at_return("kprobe_rmdir_exit", "__x64_sys_rmdir", Purpose::Operations),
    at_return("kprobe_unlink_exit", "__x64_sys_unlink", Purpose::Operations),
    at_return("kprobe_unlinkat_exit", "__x64_sys_unlinkat", Purpose::Operations),
    at_return("kprobe_rename_exit", "__x64_sys_rename", Purpose::Operations),
    at_return("kprobe_renameat_exit", "__x64_sys_renameat", Purpose::Operations),
    at_return(
        "kprobe_renameat2_exit",
        "__x64_sys_renameat2",
        Purpose::Operations,
    ),
    at_return("kprobe_device_ioctl_exit", "blkdev_ioctl", Purpose::Operations),
    at_return("kprobe_blkdev_open_exit", "blkdev_open", Purpose::Operations),
    entry("kprobe_blkdev_open_entry", "blkdev_open", Purpose::Operations),
];

/// A hook of the tracepoint tier: the program has the name of its event in `syscalls`.
pub(crate) const TRACEPOINT_HOOKS: &[(&str, Purpose)] = &[
    ("sys_exit_umount", Purpose::Refusals),
    ("sys_enter_umount", Purpose::Refusals),
    ("sys_exit_open", Purpose::History),
    ("sys_exit_openat", Purpose::History),
    ("sys_exit_openat2", Purpose::History),
    ("sys_exit_creat", Purpose::History),
    ("sys_exit_open_by_handle_at", Purpose::History),
    ("sys_exit_open_tree", Purpose::History),
    ("sys_exit_setns", Purpose::History),
    ("sys_exit_unshare", Purpose::History),
    ("sys_exit_clone", Purpose::History),
    ("sys_exit_clone3", Purpose::History),
    ("sys_exit_mount", Purpose::Mounts),
    ("sys_exit_move_mount", Purpose::Mounts),
    ("sys_exit_mount_setattr", Purpose::Mounts),
    ("sys_exit_pivot_root", Purpose::Mounts),
    ("sys_exit_fsconfig", Purpose::Operations),
    ("sys_exit_ioctl", Purpose::Operations),
    ("sys_exit_rmdir", Purpose::Operations),
    ("sys_exit_unlink", Purpose::Operations),
    ("sys_exit_unlinkat", Purpose::Operations),
    ("sys_exit_rename", Purpose::Operations),
    ("sys_exit_renameat", Purpose::Operations),
    ("sys_exit_renameat2", Purpose::Operations),
];

#[cfg(test)]
mod tests {
    use super::Choice;
    use crate::model::Tier;

    #[test]
    fn choices_by_name() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("fentry".parse(), Ok(Choice::Only(Tier::Fentry)));
        assert!("frobnicate".parse::<Choice>().unwrap_err().contains("tracepoint"));
    }
}
