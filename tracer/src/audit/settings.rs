//! Kernel settings that make busy mounts likelier, or near their limit.

use crate::{
    model::{Fix, Setting},
    text::Command,
};

/// Values in `/proc/sys`; `None` for those that this kernel does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `fs.may_detach_mounts`: RHEL 7 only (its 3.10 kernel).
    pub may_detach_mounts: Option<u64>,
    /// `fs.mount-max`: mounts of one namespace.
    pub mount_max: Option<u64>,
    /// `user.max_mnt_namespaces`.
    pub max_mnt_namespaces: Option<u64>,
    /// Mounts of the largest namespace.
    pub mounts: u64,
    /// Mount namespaces.
    pub namespaces: u64,
}

/// A value of this many percent of a limit is near it.
const NEAR_PERCENT: u64 = 80;

/// Findings about them.
#[must_use]
pub fn settings(limits: &Limits) -> Vec<Setting> {
    let near = |value: Option<u64>, used: u64| {
        value.filter(|value| *value > 0 && used.saturating_mul(100) >= value.saturating_mul(NEAR_PERCENT))
    };
    let raise = |name: &'static str, value: u64| {
        let raised = Command::new(&["sysctl", "-w"]).assign(name, value.saturating_mul(2));
        let text = "raise it, and look for what leaves them behind (LEAKED, KEPT)";
        vec![Fix::command(text, Some(raised), "")]
    };
    let mut found = Vec::new();
    if limits.may_detach_mounts == Some(0) {
        found.push(Setting {
            name: "fs.may_detach_mounts".to_owned(),
            value: 0,
            used: None,
            why: "rmdir and unlink of a mount point fail while any other namespace has the mount".to_owned(),
            fixes: vec![Fix::command(
                "set it, as runtimes do on such kernels: that frees them at the next retry",
                Some(Command::new(&["sysctl", "-w"]).assign("fs.may_detach_mounts", 1)),
                "",
            )],
        });
    }
    if let Some(value) = near(limits.mount_max, limits.mounts) {
        found.push(Setting {
            name: "fs.mount-max".to_owned(),
            value,
            used: Some(limits.mounts),
            why: "a namespace is near it: mounts, and new namespaces with copies of them, will fail with ENOSPC"
                .to_owned(),
            fixes: raise("fs.mount-max", value),
        });
    }
    if let Some(value) = near(limits.max_mnt_namespaces, limits.namespaces) {
        found.push(Setting {
            name: "user.max_mnt_namespaces".to_owned(),
            value,
            used: Some(limits.namespaces),
            why: "so many mount namespaces are near it: new containers will fail with ENOSPC".to_owned(),
            fixes: raise("user.max_mnt_namespaces", value),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Limits, settings};

    fn names(limits: &Limits) -> Vec<String> {
        settings(limits).into_iter().map(|setting| setting.name).collect()
    }

    #[test]
    fn only_what_matters_is_told() {
        let usual = Limits {
            may_detach_mounts: None,
            mount_max: Some(100_000),
            max_mnt_namespaces: Some(63_000),
            mounts: 2_000,
            namespaces: 100,
        };
        assert!(names(&usual).is_empty());
        let bad = Limits {
            may_detach_mounts: Some(0),
            mounts: 80_000,
            namespaces: 62_999,
            ..usual
        };
        assert_eq!(
            names(&bad),
            ["fs.may_detach_mounts", "fs.mount-max", "user.max_mnt_namespaces"]
        );
        let mended = Limits {
            may_detach_mounts: Some(1),
            // Users may have none: that is not a limit to be near.
            max_mnt_namespaces: Some(0),
            ..usual
        };
        assert!(names(&mended).is_empty());
        let extreme = Limits {
            mount_max: Some(u64::MAX),
            mounts: u64::MAX,
            ..usual
        };
        assert_eq!(names(&extreme), ["fs.mount-max"]);
    }
}
