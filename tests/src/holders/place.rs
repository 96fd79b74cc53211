//! References by place of a process or thread: its working directory, its root, its program.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::Result;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{claim::Claim, hold::Setup, namespace::Namespace, process::in_thread};

/// Has its working directory there.
pub(super) fn cwd(setup: &Setup) -> Result<()> {
    std::env::set_current_dir(setup.path())?;
    setup.hold([Claim::new("cwd")])
}

/// Goes to a directory and into a private namespace afterwards: its working directory moves to the copy.
pub(super) fn cwd_moved(setup: &Setup) -> Result<()> {
    let mut setup = setup.clone();
    rustix::process::chdir(setup.path())?;
    setup.move_to(Namespace::Private)?;
    setup.look_again()?;
    setup.hold([Claim::new("cwd")])
}

/// A thread with an `fs_struct` of its own has its working directory there.
pub(super) fn thread_cwd(setup: &Setup) -> Result<()> {
    let path = setup.path().clone();
    let (tid, _thread) = in_thread(move || {
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        std::env::set_current_dir(path)
    })?;
    let mut claim = Claim::new("cwd");
    claim.owners[0].tid = Some(tid);
    setup.hold([claim])
}

/// Has its root directory there and its working directory outside.
pub(super) fn root(setup: &Setup) -> Result<()> {
    rustix::process::chroot(setup.path())?;
    setup.hold([Claim::new("root")])
}

/// Has its root directory and its working directory there, as a process of a container has.
pub(super) fn root_cwd(setup: &Setup) -> Result<()> {
    rustix::process::chroot(setup.path())?;
    std::env::set_current_dir("/")?;
    setup.hold([Claim::new("root"), Claim::new("cwd")])
}

/// Executes a program of the mount: the path must be a copy of `hold-idle`, with any name.
pub(super) fn exe(setup: &Setup) -> Result<()> {
    let mut idle = Command::new(setup.path());
    Err(idle.arg0("hold-idle").arg(setup.path()).exec().into())
}

/// Runs, and holds nothing but its own executable. Its argument is the path that it was started by.
pub(super) fn idle(setup: &Setup) -> Result<()> {
    // Its text is mapped, too, from the same open file.
    let mut claim = Claim::new("exe").regular();
    claim.also = vec!["mmap".to_owned()];
    setup.hold([claim])
}
