//! Finds the program behind one that only acts for others: the kubelet, a CSI driver or a script runs `umount` 812.

use crate::model::Parent;

/// Programs that act for others: the tools themselves, shells, and programs that run other programs.
const ERRAND: &[&str] = &[
    "umount",
    "mount",
    "fusermount",
    "fusermount3",
    "sh",
    "bash",
    "dash",
    "ash",
    "busybox",
    "toybox",
    "sudo",
    "su",
    "doas",
    "env",
    "nice",
    "ionice",
    "nohup",
    "setsid",
    "timeout",
    "xargs",
    "chroot",
    "nsenter",
    "unshare",
    "systemd-run",
    "crictl",
    "ctr",
];

/// Prefixes of helpers such as `umount.nfs`.
const HELPERS: &[&str] = &["umount.", "mount."];

/// True if the program acts for its parent. A script has a name of its own.
fn is_errand(comm: &[u8]) -> bool {
    let is =
        |names: &[&str], test: fn(&[u8], &[u8]) -> bool| names.iter().any(|name| test(comm, name.as_bytes()));
    is(ERRAND, |comm, name| comm == name) || is(HELPERS, <[u8]>::starts_with)
}

/// The nearest ancestor that does not act for others itself; `None` if the program acts for itself, or if there is none
/// but the machine's first process and ebusy, which runs its given command.
#[must_use]
pub fn requester<'a>(comm: &[u8], parents: &'a [Parent]) -> Option<&'a Parent> {
    if !is_errand(comm) {
        return None;
    }
    let counts = |parent: &&Parent| parent.pid > 1 && parent.comm.as_bytes() != b"ebusy";
    let found = parents.iter().find(|parent| !is_errand(parent.comm.as_bytes()));
    found.filter(counts).or(parents.first().filter(counts))
}

#[cfg(test)]
mod tests {
    use super::{is_errand, requester};
    use crate::model::Parent;

    fn behind(comm: &str, parents: &[(u32, &str)]) -> Option<u32> {
        let parents: Vec<Parent> = parents
            .iter()
            .map(|(pid, comm)| Parent {
                pid: *pid,
                comm: (*comm).into(),
                ..Parent::default()
            })
            .collect();
        requester(comm.as_bytes(), &parents).map(|parent| parent.pid)
    }

    #[test]
    fn the_nearest_that_is_no_errand() {
        assert_eq!(
            behind("umount", &[(9, "sh"), (7, "kubelet"), (1, "systemd")]),
            Some(7)
        );
        assert_eq!(
            behind("umount.nfs", &[(9, "umount"), (8, "clean-up.sh"), (7, "cron")]),
            Some(8)
        );
        assert_eq!(behind("umount", &[(9, "bash"), (1, "systemd")]), Some(9));
        assert_eq!(behind("umount", &[(9, "sh"), (8, "ebusy"), (7, "bash")]), Some(9));
        assert_eq!(behind("umount", &[(8, "ebusy"), (7, "bash")]), None);
        assert_eq!(behind("umount", &[(1, "systemd")]), None);
        assert_eq!(behind("umount", &[]), None);
        assert_eq!(behind("containerd-shim", &[(7, "kubelet")]), None);
    }

    #[test]
    fn names_of_errands() {
        assert!(
            is_errand(b"umount") && is_errand(b"mount.cifs") && !is_errand(b"umounter") && !is_errand(b"")
        );
    }
}
