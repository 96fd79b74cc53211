//! Plays a container, or a program that opens a file in the mount namespace of one.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
    },
    process::{chdir, pivot_root},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    hold::wait_for_end,
    namespace::{self, Namespace},
    process::ForkedChild,
};

/// `enterer container ROOTFS DIRECTORY`: a slave mount namespace with ROOTFS as its root, and DIRECTORY with the mounts
/// below it at `/host`. `enterer setns PID PATH`: enters the namespace and opens the path there. `enterer root PID
/// PATH`: opens it by `/proc/PID/root`. `enterer child PID PATH`: enters, and forks a child that opens it. Each prints
/// a line, and continues until its input ends.
pub(super) fn enterer() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [mode, first, second] = arguments.as_slice() else {
        bail!("MODE and two arguments are needed")
    };
    let of_process = Path::new("/proc").join(first);
    let mut opened = None;
    let mut number = namespace::current()?;
    match mode.to_str() {
        Some("container") => {
            Namespace::Slave.enter()?;
            number = namespace::current()?;
            contain(Path::new(first), second)?;
        }
        Some("setns") => {
            enter(&of_process)?;
            opened = Some(File::open(second)?);
        }
        Some("child") => {
            enter(&of_process)?;
            // SAFETY: the process has one thread.
            match unsafe { libc::fork() } {
                -1 => return Err(io::Error::last_os_error()).context("fork"),
                0 => {}
                child => {
                    let mut status = 0;
                    // SAFETY: the child is ours, and there is room for its status.
                    unsafe { libc::waitpid(child, &raw mut status, 0) };
                    ensure!(status == 0, "the child ended with {status}");
                    return Ok(());
                }
            }
            opened = Some(File::open(second)?);
            number = std::process::id();
        }
        Some("root") => {
            let inside = Path::new(second).strip_prefix("/")?;
            opened = Some(File::open(of_process.join("root").join(inside))?);
        }
        _ => bail!("no such mode"),
    }
    println!("{number}");
    wait_for_end()?;
    drop(opened);
    Ok(())
}

fn enter(of_process: &Path) -> Result<()> {
    let link = File::open(of_process.join("ns/mnt"))?;
    Ok(move_into_link_name_space(
        link.as_fd(),
        Some(LinkNameSpaceType::Mount),
    )?)
}

fn contain(rootfs: &Path, directory: &OsStr) -> Result<()> {
    mount_bind_recursive(directory, rootfs.join("host")).context("the volume")?;
    chdir(rootfs)?;
    // The old root is then on top of the new one (pivot_root(2)).
    pivot_root(".", ".").context("pivot_root")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// A holder as in a pod without any tools: `distroless PATH`, on the mount of a scratch.
///
/// It has namespaces of mounts and processes of its own; its root is a tmpfs with nothing but `/proc` and, at `/host`, a
/// slave copy of the host's mounts, through which it opens the path. It prints `ready`, and ends with its input.
pub(super) fn distroless() -> Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("a path is needed")?);
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    // SAFETY: neither flag concerns memory or descriptors.
    unsafe { unshare_unsafe(flags) }.context("unshare")?;
    let slaves = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slaves).context("make / a slave")?;
    let child = ForkedChild::spawn(0, || hold_without_tools(&path))?;
    wait_for_end()?;
    drop(child);
    Ok(())
}

/// In the new pid namespace.
fn hold_without_tools(path: &Path) -> Result<()> {
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
