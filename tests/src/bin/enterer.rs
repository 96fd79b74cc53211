//! Plays a container, or a program that opens a file in the mount namespace of one.
//!
//! `enterer container ROOTFS DIRECTORY`: a slave mount namespace with ROOTFS as its root, and DIRECTORY with what is
//! mounted there at `/host`. `enterer setns PID PATH`: enters the namespace and opens the path there. `enterer root PID
//! PATH`: opens it by `/proc/PID/root`. `enterer child PID PATH`: enters, and has a child that opens it. Each prints a line, and goes on until its input ends.

use std::{ffi::OsString, fs::File, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    hold,
    namespace::{self, Namespace},
};
use rustix::{
    mount::{UnmountFlags, mount_bind_recursive, unmount},
    process::{chdir, pivot_root},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [mode, first, second] = arguments.as_slice() else {
        bail!("MODE and two arguments are needed")
    };
    let first = Path::new(first);
    let mut opened = None;
    let own = namespace::current()?;
    let number = match mode.to_str() {
        Some("container") => {
            Namespace::Slave.enter()?;
            let number = namespace::current()?;
            contain(first, Path::new(second))?;
            number
        }
        Some("setns") => {
            let link = File::open(Path::new("/proc").join(first).join("ns/mnt"))?;
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Mount))?;
            opened = Some(File::open(second)?);
            own
        }
        Some("child") => {
            let link = File::open(Path::new("/proc").join(first).join("ns/mnt"))?;
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Mount))?;
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
            std::process::id()
        }
        Some("root") => {
            let inside = Path::new(second).strip_prefix("/")?;
            opened = Some(File::open(
                Path::new("/proc").join(first).join("root").join(inside),
            )?);
            own
        }
        _ => bail!("no such mode"),
    };
    println!("{number}");
    hold::wait_for_end()?;
    drop(opened);
    Ok(())
}

fn contain(rootfs: &Path, directory: &Path) -> Result<()> {
    mount_bind_recursive(directory, rootfs.join("host")).context("the volume")?;
    chdir(rootfs)?;
    // The old root is then on top of the new one (pivot_root(2)).
    pivot_root(".", ".").context("pivot_root")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}
