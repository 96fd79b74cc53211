//! Each kind of reference in words: what it is, and what lets go of it.

use crate::{
    model::{AIO_REQUEST, Access, Holder, Kind, Text, URING_REQUEST},
    text::{said, short_name},
};

/// What stands before the path.
pub(super) fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Fd
        | Kind::ScmRights
        | Kind::IoUring
        | Kind::Fanotify
        | Kind::Loop
        | Kind::Swap
        | Kind::Uprobe
        | Kind::BinfmtMisc
        | Kind::Accounting
        | Kind::Deferred
        | Kind::Kernel => "file",
        Kind::UnixSocket => "socket",
        Kind::NfsExport => "export",
        Kind::PathWalk => "at",
        Kind::ChildMount | Kind::Mount => "mount",
        Kind::Cwd | Kind::Root | Kind::Exe | Kind::Mmap => kind.name(),
    }
}

/// The way of holding, in words.
pub(super) fn way(holder: &Holder) -> String {
    let access = holder.access.map(|access| match access {
        Access::Path => " (path only)".to_owned(),
        other => format!(" ({})", other.name()),
    });
    let by = |before: &str| match &holder.held_by {
        Some(by) => format!("{before}{}", short_name(by.as_bytes())),
        None => String::new(),
    };
    let fd = holder.fd.map(|fd| format!(" fd {fd}")).unwrap_or_default();
    let by_own = |own: &str| {
        let by = holder.held_by.as_ref();
        by.is_some_and(|by| by.as_bytes() == own.as_bytes())
    };
    match holder.kind {
        Kind::Fd if holder.fd.is_some() => format!("fd{}{}", &fd[3..], access.unwrap_or_default()),
        Kind::Fd => format!("an open file{}", access.unwrap_or_default()),
        Kind::Cwd => "working directory".to_owned(),
        Kind::Root => "root directory".to_owned(),
        Kind::Exe => "running executable".to_owned(),
        Kind::Mmap if holder.refs > 1 => format!("mapped files ({} references)", holder.refs),
        Kind::Mmap => "mapped file".to_owned(),
        Kind::ChildMount => format!("a mount on top of it{}", by(": ")),
        Kind::Mount => format!("a mount that is there{}", by(": ")),
        Kind::UnixSocket => format!("UNIX socket{fd}{}", by(", ")),
        Kind::ScmRights => format!("a file in flight, not received from its socket{fd}{}", by(", ")),
        Kind::IoUring if by_own(URING_REQUEST) => format!("a request of its io_uring{fd}, under way"),
        Kind::IoUring => format!("a file registered with its io_uring{fd}{}", by(", ")),
        Kind::Fanotify => format!("an unread fanotify event{fd}{}", by(", ")),
        Kind::Loop => format!("backing file of {}", or(holder.held_by.as_ref(), "a loop device")),
        Kind::Swap => "active swap file".to_owned(),
        Kind::Uprobe => format!("a uprobe{fd}{}", by(", ")),
        Kind::BinfmtMisc => format!("interpreter kept open by binfmt_misc{}", by(", entry ")),
        Kind::Accounting => format!("file of process accounting{}", by(" of ")),
        Kind::NfsExport => format!("exported by the NFS server{}", by(" to ")),
        Kind::PathWalk => format!("a path lookup under way{}", by(": ")),
        Kind::Deferred if holder.process.is_some() => {
            format!("closed, but the kernel has yet to drop it{}", by(": "))
        }
        Kind::Deferred => format!("no process: the kernel has yet to drop it{}", by(", ")),
        Kind::Kernel if by_own(AIO_REQUEST) => AIO_REQUEST.to_owned(),
        Kind::Kernel => format!("held by the kernel{}", by(": ")),
    }
}

/// A further way in which the same reference is used.
pub(super) fn also(kind: Kind) -> &'static str {
    match kind {
        Kind::Fd => "open",
        Kind::Cwd => "its working directory",
        Kind::Root => "its root directory",
        Kind::Exe => "running",
        Kind::Mmap => "mapped",
        Kind::ChildMount => "mounted on",
        Kind::Mount => "mounted",
        Kind::UnixSocket => "a socket",
        Kind::ScmRights => "in flight over a socket",
        Kind::IoUring => "registered with an io_uring",
        Kind::Fanotify => "in a fanotify event",
        Kind::Loop => "behind a loop device",
        Kind::Swap => "swapped to",
        Kind::Uprobe => "probed",
        Kind::BinfmtMisc => "an interpreter of binfmt_misc",
        Kind::Accounting => "the accounting file",
        Kind::NfsExport => "exported by NFS",
        Kind::PathWalk => "looked up",
        Kind::Deferred => "waiting to be dropped",
        Kind::Kernel => "used by the kernel",
    }
}

fn or(name: Option<&Text>, otherwise: &str) -> String {
    name.map_or_else(|| otherwise.to_owned(), |name| said(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{also, label, way};
    use crate::{
        model::{Holder, Kind},
        render::samples::plain,
    };

    fn kernel(kind: Kind, by: &str) -> Holder {
        Holder {
            process: None,
            held_by: Some(by.into()),
            seen_as: Some("/m/img".into()),
            ..plain(0, "", kind, "/img")
        }
    }

    #[test]
    fn every_kind_has_words() {
        for kind in Kind::ALL {
            for holder in [kernel(kind, "x"), plain(1, "p", kind, "/f")] {
                assert!(!way(&holder).is_empty() && !also(kind).is_empty() && !label(kind).is_empty());
            }
        }
        assert_eq!(way(&plain(1, "p", Kind::Fd, "/f")), "fd 3 (read)");
        assert_eq!(
            way(&kernel(Kind::Loop, "/dev/loop3")),
            "backing file of /dev/loop3"
        );
    }
}
