//! A child process cleans up kernel objects that outlive their process: it waits for the end of its parent, however
//! that happens.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    ptr,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    pipe::{PipeFlags, pipe_with},
};

use crate::{holder::PATIENCE, pause};

/// A child that cleans up when this value goes, or the process ends.
#[derive(Debug)]
pub struct Guard {
    child: libc::pid_t,
    parent: Option<OwnedFd>,
}

impl Guard {
    /// Starts the child; call this while the process has one thread, and before it takes references.
    pub fn start(clean_up: impl FnOnce()) -> Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the process has one thread, so the child may call anything.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("fork"),
            0 => {
                drop(write);
                // The test waits for the end of the output, and a signal to the parent's process group must not end
                // this child. SAFETY: these take no pointers.
                unsafe {
                    libc::setsid();
                    libc::close(0);
                    libc::close(1);
                }
                let _ = File::from(read).read(&mut [0]);
                clean_up();
                // SAFETY: this takes no pointer.
                unsafe { libc::_exit(0) }
            }
            child => Ok(Self {
                child,
                parent: Some(write),
            }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.parent.take());
        // SAFETY: the child has not been waited for, so the number is still its own.
        unsafe { libc::waitpid(self.child, ptr::null_mut(), 0) };
    }
}

/// A pseudo file system in a mount that is in no namespace: nothing changes on the host.
pub fn detached(file_system: &str) -> Result<OwnedFd> {
    let context = fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen")?;
    fsconfig_create(context.as_fd()).context("fsconfig")?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .context("fsmount")
}

/// Writes to a file of it.
pub fn write_below(root: &OwnedFd, name: &str, text: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let file = openat(root, name, flags, Mode::empty()).with_context(|| name.to_owned())?;
    File::from(file).write_all(text).with_context(|| name.to_owned())
}

/// A free loop device on a file, which it releases when the device is closed.
pub fn loop_device(file: &File) -> Result<(File, String)> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    // struct loop_config (uapi/linux/loop.h; Linux 5.8 on): fd, block_size, loop_info64, reserved. The flags are at 52 of
    // the loop_info64.
    let mut config = [0_u8; 304];
    config[..4].copy_from_slice(&(file.as_raw_fd() as u32).to_ne_bytes());
    config[60..64].copy_from_slice(&LO_FLAGS_AUTOCLEAR.to_ne_bytes());
    let control = File::open("/dev/loop-control").context("/dev/loop-control")?;
    // Others look for a free device at the same time.
    for _ in 0..50 {
        // SAFETY: this takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error()).context("LOOP_CTL_GET_FREE");
        }
        let name = format!("/dev/loop{number}");
        pause::until(PATIENCE, || Ok(Path::new(&name).exists().then_some(())))
            .with_context(|| format!("no {name}"))?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&name)
            .context(name.clone())?;
        // SAFETY: the argument is a struct loop_config, which the kernel copies.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) } == 0 {
            return Ok((device, name));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error).context("LOOP_CONFIGURE");
        }
    }
    anyhow::bail!("no free loop device")
}
