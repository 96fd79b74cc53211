//! Following symbolic links without ever being on a mount that somebody may want to unmount.
//!
//! A plain `readlink` of a mount point is a reference to what is mounted there, for a moment, and no list of mounts is
//! new enough to know all of them. So every component is looked up by itself, in the dentry cache alone
//! (`RESOLVE_CACHED`) and not across mounts (`RESOLVE_NO_XDEV`): such a lookup stays in RCU mode, which takes no reference
//! until it has arrived (Linux 5.12 on, fs/namei.c: `__follow_mount_rcu`, `try_to_unlazy_next`). What an umount was passed
//! just now is in the cache. Before 5.12 no link is followed.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2, readlinkat},
    io::Errno,
};

use super::{mounts::NamespaceMounts, path_text::replaced};
use crate::watchdog::{self, Step};

/// Links followed at the most (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Mounts that a host always has at hand: these may be crossed.
const LOCAL: [&[u8]; 4] = [b"/run", b"/var", b"/tmp", b"/dev"];

/// What a component of a path is.
pub(super) enum Component {
    Link(Vec<u8>),
    Directory(OwnedFd),
}

/// The path without its links, in our own namespace, up to where it leads into a mount: what is below that cannot be
/// looked at. The last component is followed only where `last` says so.
#[must_use]
pub(super) fn follow(namespace: &NamespaceMounts, path: &[u8], last: bool) -> Vec<u8> {
    let _step = watchdog::within(Step::Links, path);
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        match without_first_link(namespace, &path, last) {
            Some(without) => path = without,
            None => break,
        }
    }
    path
}

fn without_first_link(namespace: &NamespaceMounts, path: &[u8], last: bool) -> Option<Vec<u8>> {
    let mut directory = root()?;
    let mut start = 0;
    for end in component_ends(path) {
        if end == path.len() && !last {
            return None;
        }
        let name = path[start..end].strip_prefix(b"/")?;
        let prefix = &path[..end];
        let may_cross = LOCAL.contains(&prefix) && namespace.at(prefix).is_some();
        match step(&directory, name, may_cross)? {
            Component::Link(target) => return Some(replaced(path, start, end, &target)),
            Component::Directory(next) => directory = next,
        }
        start = end;
    }
    None
}

/// What a path of our own namespace is, whose components before the last one are no links: `None` where that is not in the
/// cache.
pub(super) fn at(namespace: &NamespaceMounts, path: &[u8]) -> Option<Component> {
    let _step = watchdog::within(Step::Links, path);
    let mut found = root()?;
    let mut start = 0;
    for end in component_ends(path) {
        let name = path[start..end].strip_prefix(b"/")?;
        let may_cross = LOCAL.contains(&&path[..end]) && namespace.at(&path[..end]).is_some();
        match step(&found, name, may_cross)? {
            Component::Directory(next) => found = next,
            link @ Component::Link(_) => return (end == path.len()).then_some(link),
        }
        start = end;
    }
    Some(Component::Directory(found))
}

fn root() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open("/", flags, Mode::empty()).ok()
}

/// Where the components of a path end.
pub(super) fn component_ends(path: &[u8]) -> impl Iterator<Item = usize> {
    (1..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'))
}

fn step(directory: &OwnedFd, name: &[u8], may_cross: bool) -> Option<Component> {
    let resolve = if may_cross {
        ResolveFlags::empty()
    } else {
        ResolveFlags::NO_XDEV | ResolveFlags::CACHED
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat2(
        directory.as_fd(),
        OsStr::from_bytes(name),
        flags,
        Mode::empty(),
        resolve,
    )
    .ok()?;
    match readlinkat(&found, "", Vec::new()) {
        Ok(target) => Some(Component::Link(target.into_bytes())),
        Err(Errno::NOENT | Errno::INVAL) => Some(Component::Directory(found)),
        Err(_) => None,
    }
}
