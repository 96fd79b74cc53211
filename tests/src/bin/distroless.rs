//! A holder as in a pod without any tools: `distroless PATH`, on the mount of a scratch.
//!
//! It has namespaces of mounts and processes of its own; its root is a tmpfs with nothing but `/proc` and, at `/host`, a
//! slave copy of the host's mounts, through which it opens the path. It prints `ready`, and ends with its input.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ebusy_tests::{hold::wait_for_end, process::ForkedChild};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
    },
    process::{chdir, pivot_root},
    thread::{UnshareFlags, unshare_unsafe},
};

fn main() -> Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("a path is needed")?);
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    // SAFETY: neither flag concerns memory or descriptors.
    unsafe { unshare_unsafe(flags) }.context("unshare")?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context("make / a slave")?;
    let child = ForkedChild::spawn(0, || hold(&path))?;
    wait_for_end()?;
    drop(child);
    Ok(())
}

/// In the new pid namespace.
fn hold(path: &Path) -> Result<()> {
    let scratch = path.parent().and_then(Path::parent);
    let root = scratch.context("a path on a scratch")?.join("root");
    fs::create_dir(&root)?;
    mount("distroless", &root, "tmpfs", MountFlags::empty(), None).context("mount a tmpfs")?;
    chdir(&root)?;
    for name in ["proc", "host", "old"] {
        fs::create_dir(name)?;
    }
    mount("proc", "proc", "proc", MountFlags::empty(), None).context("mount proc")?;
    mount_bind_recursive("/", "host").context("bind the host's mounts")?;
    pivot_root(".", "old").context("pivot_root")?;
    chdir("/")?;
    unmount("/old", UnmountFlags::DETACH).context("detach the old root")?;
    let file = File::open(Path::new("/host").join(path.strip_prefix("/")?))?;
    println!("ready");
    std::mem::forget(file);
    Ok(())
}
