//! Mounts that go without an umount: with their namespace, or with their mount point.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::{
    hold::wait_for_end,
    namespace::{self, Namespace},
};

fn path_argument() -> Result<PathBuf> {
    Ok(std::env::args_os().nth(1).context("a path is needed")?.into())
}

/// A mount namespace that ends while its mount is busy: `vanisher PATH`.
///
/// Mounts a tmpfs on the path in a namespace of its own, opens a file of it, tries to unmount it anyway, prints
/// `{"pid":..,"fd":..,"mount_namespace":..,"refused":..}`, and ends with its input. The namespace goes with it.
pub(super) fn vanisher() -> Result<()> {
    let path = path_argument()?;
    Namespace::Private.enter()?;
    mount("ebusy-vanishing", &path, "tmpfs", MountFlags::empty(), None)?;
    fs::write(path.join("file"), "x")?;
    let file = File::open(path.join("file"))?;
    let refused = match unmount(&path, UnmountFlags::empty()) {
        Ok(()) => false,
        Err(Errno::BUSY) => true,
        Err(error) => return Err(error).context("umount2"),
    };
    println!(
        "{{\"pid\":{},\"fd\":{},\"mount_namespace\":{},\"refused\":{refused}}}",
        std::process::id(),
        file.as_raw_fd(),
        namespace::current()?,
    );
    wait_for_end()
}

/// Removes the directory that is a mount point in other namespaces: `mountpoint-remover PATH`.
///
/// In a namespace where nothing is mounted on it, rmdir(2) succeeds, and the kernel detaches the mounts on it in other
/// namespaces.
pub(super) fn mountpoint_remover() -> Result<()> {
    let path = path_argument()?;
    Namespace::Private.enter()?;
    unmount(&path, UnmountFlags::DETACH)?;
    fs::remove_dir(&path)?;
    println!("{{\"removed\":true}}");
    Ok(())
}
