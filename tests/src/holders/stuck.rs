//! System calls that do not return: lookups, opens and closes that wait for a server or a peer.

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::symlink},
    process,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, mknodat, statat},
    mount::{MoveMountFlags, move_mount},
    process::{Pid, Signal, kill_process},
};

use crate::{
    claim::{Claim, Owner},
    fanotify::Group,
    fuse::Connection,
    hold::Setup,
    process::{ForkedChild, stuck_in_stat},
};

/// The child walks there.
fn walk_of(child: &ForkedChild) -> Claim {
    let mut claim = Claim::new("path_walk");
    claim.owners[0].pid = child.pid();
    claim
}

/// The child's lookup, and the file, which is not open yet: it has no backing file.
fn open_of(child: &ForkedChild) -> Claim {
    let mut claim = walk_of(child).held_by("an open that waits");
    (claim.refs, claim.overlay_refs) = (2, 2);
    claim
}

/// A child that is stuck in a lookup: the server of the file system does not answer. The paths are the directory that
/// the lookup has reached, and the name that it looks up.
pub(super) fn stat(setup: &Setup) -> Result<()> {
    let child = stuck_in_stat(&setup.paths[1])?;
    setup.hold([walk_of(&child)])
}

/// A child that is stuck in the lookup of a symbolic link: it leads to a FUSE elsewhere, whose server does not answer.
pub(super) fn link(setup: &Setup) -> Result<()> {
    // The server ends first, which releases all waiting processes.
    let (root, server) = Connection::new()?.serve_in_child()?;
    symlink(format!("/proc/self/fd/{}/never", root.as_raw_fd()), setup.path())?;
    let child = stuck_in_stat(setup.path())?;
    let held = setup.hold([walk_of(&child)]);
    drop(server);
    held
}

/// A child that is blocked in the open of a FIFO: its lookup, and a file that has no descriptor yet.
pub(super) fn fifo(setup: &Setup) -> Result<()> {
    let path = setup.path();
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let child = ForkedChild::blocked_in(libc::SYS_openat, || drop(File::open(path)))?;
    setup.hold([open_of(&child)])
}

/// Does not answer a fanotify permission event: the event, and the open of a child that waits for the answer.
pub(super) fn permission(setup: &Setup) -> Result<()> {
    let path = setup.path();
    let Some(group) = Group::watching(path, libc::FAN_CLASS_CONTENT, libc::FAN_OPEN_PERM)? else {
        return setup.skip("no fanotify permission events");
    };
    let child = ForkedChild::blocked_in(libc::SYS_openat, || drop(File::open(path)))?;
    let mut event = Claim::new("fanotify").held_by(format!("pid {} waits for the answer", child.pid()));
    // The child has inherited the descriptor.
    event.owners = [process::id(), child.pid()]
        .map(|pid| Owner::descriptor(pid, group.fd()))
        .to_vec();
    setup.hold([event, open_of(&child)])
}

/// Has an unread fanotify event, whose file has been closed.
pub(super) fn event(setup: &Setup) -> Result<()> {
    let Some(group) = Group::watching(setup.path(), libc::FAN_CLASS_NOTIF, libc::FAN_OPEN)? else {
        return setup.skip("no fanotify");
    };
    drop(File::open(setup.path())?);
    let mut claim = Claim::new("fanotify").held_by(format!("caused by pid {}", process::id()));
    claim.owners[0].fd = Some(group.fd());
    setup.hold([claim])
}

/// A child that has closed a file in an unfinished system call: the file is released when the call returns. The call
/// also closes a file of a FUSE, whose server does not answer.
pub(super) fn close_range(setup: &Setup) -> Result<()> {
    // The server ends first, which releases all waiting processes.
    let (root, server) = Connection::new()?.serve_in_child()?;
    let stuck = format!("/proc/self/fd/{}/never-flushed", root.as_raw_fd());
    let child = ForkedChild::blocked_in(libc::SYS_close_range, || {
        let (Ok(file), Ok(stuck)) = (File::open(setup.path()), File::open(stuck)) else {
            return;
        };
        let (first, last) = (file.as_raw_fd(), stuck.as_raw_fd());
        std::mem::forget((file, stuck));
        // SAFETY: this takes no pointers, and nobody uses the descriptors any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    })?;
    let mut claim = Claim::new("deferred")
        .regular()
        .held_by("a system call that is not done");
    claim.owners[0].pid = child.pid();
    let held = setup.hold([claim]);
    drop(server);
    held
}

/// Mounts a FUSE whose server answers nothing, and has a child stuck in it: any process that walks onto it gets stuck
/// as well.
pub(super) fn deaf_fuse(setup: &Setup) -> Result<()> {
    let (root, server) = Connection::new()?.serve_in_child()?;
    // It answers, so it has already set up to end with us: a server stopped before that would stay forever.
    statat(&root, "file", AtFlags::empty()).context("the server does not answer")?;
    let pid = Pid::from_raw(server.pid().cast_signed());
    kill_process(pid.context("a process id is positive")?, Signal::STOP)?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, setup.path(), onto)?;
    // The server has a copy.
    let fd = root.as_raw_fd().cast_unsigned();
    drop(root);
    let child = stuck_in_stat(&setup.path().join("never"))?;
    let held = setup.hold([Claim::fd_of(server.pid(), fd, "path"), walk_of(&child)]);
    // The connection ends with its server, which releases the child.
    drop(server);
    held
}
