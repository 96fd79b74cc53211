//! A mount namespace that ends while its mount is busy: `vanisher PATH`.
//!
//! Mounts a tmpfs on the path in a namespace of its own, opens a file of it, tries to unmount it all the same, prints
//! `{"pid":..,"fd":..,"mount_namespace":..,"refused":..}`, and ends with its input. The namespace goes with it.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

use anyhow::Context as _;
use ebusy_tests::{
    hold::wait_for_end,
    namespace::{self, Namespace},
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

fn main() -> anyhow::Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("a path is needed")?);
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
