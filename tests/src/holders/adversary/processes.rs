//! Processes, and references that they hold without a descriptor.

use std::{
    ffi::CString,
    fs::{self, File},
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStringExt as _, net::UnixStream},
    },
};

use anyhow::{Context as _, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::Worker;
use crate::{process::ForkedChild, socket, uring::Ring};

/// Some that end at once, and nobody waits for them until later.
pub(super) fn forks(worker: &mut Worker) -> Result<()> {
    for _ in 0..=worker.noise.below(3) {
        worker.keep_child(|| {
            // SAFETY: it takes no pointers.
            unsafe { libc::_exit(0) }
        })?;
    }
    Ok(())
}

/// With a name that a terminal or shell acts on.
pub(super) fn named(worker: &mut Worker) -> Result<()> {
    let mut name = worker.noise.name().into_vec();
    name.truncate(15);
    let name = CString::new(name)?;
    let file = File::create(worker.directory()?.join("held"))?;
    worker.keep_child(|| {
        // SAFETY: the name lives as long as the call.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        std::mem::forget(file);
        Ok(())
    })
}

/// Its root, or its working directory, is on a mount of its own.
pub(super) fn placed(worker: &mut Worker) -> Result<()> {
    let path = worker.mount()?;
    let root = worker.noise.below(2) == 0;
    worker.keep_child(|| {
        rustix::process::chdir(&path)?;
        if root {
            rustix::process::chroot(".")?;
        }
        Ok(())
    })?;
    worker.kept.push_back(super::Kept::Mount(path));
    Ok(())
}

/// One after the other, each with copies of all mounts.
pub(super) fn namespaces(worker: &mut Worker) -> Result<()> {
    let depth = 1 + worker.noise.below(3);
    worker.keep_child(|| {
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
        for _ in 0..depth {
            // SAFETY: the same.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        }
        Ok(())
    })
}

/// Descriptors that are only in a message, or in flight in each other.
pub(super) fn in_flight(worker: &mut Worker) -> Result<()> {
    let file = File::create(worker.directory()?.join(worker.noise.name()))?;
    let (one, other) = UnixStream::pair()?;
    let (inner, outer) = UnixStream::pair()?;
    socket::send(&one, &[file.as_fd(), inner.as_fd(), outer.as_fd()])?;
    socket::send(&inner, &[one.as_fd(), other.as_fd()])?;
    // Once these two are closed, only the kernel has them.
    if worker.noise.below(2) == 0 {
        worker.keep((one, other));
    }
    Ok(())
}

pub(super) fn ring(worker: &mut Worker) -> Result<()> {
    let file = File::create(worker.directory()?.join(worker.noise.name()))?;
    let ring = Ring::new()?.context("no rings")?;
    ring.register(&file)?;
    worker.keep(ring);
    Ok(())
}

/// With a name like those of a runtime.
pub(super) fn cgroup(worker: &mut Worker) -> Result<()> {
    let base = worker.cgroup.clone().context("no cgroup is given to it")?;
    let name = match worker.noise.below(3) {
        0 => format!("cri-containerd-{:064x}.scope", worker.noise.below(4)),
        1 => format!("docker-{:064x}.scope", worker.noise.below(4)),
        _ => "kubepods-besteffort-pod0f3c5b1e_7f55_4d0f_9f0a_3c1f5a2b4d6e.slice".to_owned(),
    };
    let path = base.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let child = ForkedChild::pause()?;
    fs::write(path.join("cgroup.procs"), child.pid().to_string())?;
    worker.keep(child);
    Ok(())
}
