//! The probe tiers, and what each one hooks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How much the kernel lets us see; ordered from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Syscall and raw tracepoints: refusals at the return of umount2, counts right after.
    Tracepoint,
    /// Tracing programs: what the kernel compared, inside the refusal.
    Fentry,
}

impl Tier {
    /// All tiers, best first.
    pub const ALL: [Self; 2] = [Self::Fentry, Self::Tracepoint];

    /// Its name on the command line and in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    /// Opens and mount namespaces entered: the history.
    History,
    /// Changes of mount trees.
    Mounts,
}

/// A hook of the fentry tier.
#[derive(Debug)]
pub(crate) struct FentryHook {
    pub(crate) program: &'static str,
    pub(crate) function: &'static str,
    pub(crate) at_return: bool,
    /// Only where the function has so many parameters.
    pub(crate) params: Option<usize>,
    pub(crate) purpose: Purpose,
}

const fn entry(program: &'static str, function: &'static str, purpose: Purpose) -> FentryHook {
    FentryHook {
        program,
        function,
        at_return: false,
        params: None,
        purpose,
    }
}

const fn at_return(program: &'static str, function: &'static str, purpose: Purpose) -> FentryHook {
    FentryHook {
        program,
        function,
        at_return: true,
        params: None,
        purpose,
    }
}

const fn with_params(mut hook: FentryHook, params: usize) -> FentryHook {
    hook.params = Some(params);
    hook
}

/// The hooks of the fentry tier. Those that end a call come first, so that no end is seen without its beginning
/// being asked for.
pub(crate) const FENTRY_HOOKS: &[FentryHook] = &[
    at_return("path_umount_exit", "path_umount", Purpose::Refusals),
    at_return("busy_check_exit", "propagate_mount_busy", Purpose::Refusals),
    at_return("count_exit", "mnt_get_count", Purpose::Refusals),
    entry("busy_check_entry", "propagate_mount_busy", Purpose::Refusals),
    entry("path_umount_entry", "path_umount", Purpose::Refusals),
    with_params(
        at_return("do_dentry_open_exit_3", "do_dentry_open", Purpose::History),
        3,
    ),
    with_params(
        at_return("do_dentry_open_exit_2", "do_dentry_open", Purpose::History),
        2,
    ),
    entry("fput_entry", "__fput", Purpose::History),
    at_return("copy_mnt_ns_exit", "copy_mnt_ns", Purpose::History),
    entry(
        "switch_namespaces_entry",
        "switch_task_namespaces",
        Purpose::History,
    ),
    at_return("attach_mount_exit", "attach_recursive_mnt", Purpose::Mounts),
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
    ("sys_exit_setns", Purpose::History),
    ("sys_exit_unshare", Purpose::History),
    ("sys_exit_clone", Purpose::History),
    ("sys_exit_clone3", Purpose::History),
    ("sys_exit_mount", Purpose::Mounts),
    ("sys_exit_move_mount", Purpose::Mounts),
    ("sys_exit_mount_setattr", Purpose::Mounts),
    ("sys_exit_pivot_root", Purpose::Mounts),
];

#[cfg(test)]
mod tests {
    use super::{Choice, Tier};

    #[test]
    fn choices_by_name() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("fentry".parse(), Ok(Choice::Only(Tier::Fentry)));
        assert!("frobnicate".parse::<Choice>().unwrap_err().contains("tracepoint"));
    }
}
