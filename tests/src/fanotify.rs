//! A fanotify group, by its raw system calls.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::io::Errno;

/// A group.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// Makes one that watches a file; `None` if the kernel has no fanotify, or not this class.
    pub fn watching(path: &Path, class: u32, events: u64) -> io::Result<Option<Self>> {
        Self::marking(path, class, libc::FAN_MARK_INODE, events)
    }

    /// Makes one that watches a file's inode, mount or file system, by the flag.
    pub fn marking(path: &Path, class: u32, scope: u32, events: u64) -> io::Result<Option<Self>> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::fanotify_init(class | libc::FAN_CLOEXEC, libc::O_RDONLY as u32) };
        if fd < 0 {
            return unless_missing(io::Error::last_os_error());
        }
        // SAFETY: the call has just opened it.
        let group = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path ends with a null.
        let marked = unsafe {
            libc::fanotify_mark(
                fd,
                libc::FAN_MARK_ADD | scope,
                events,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked != 0 {
            return unless_missing(io::Error::last_os_error());
        }
        Ok(Some(group))
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }
}

fn unless_missing(error: io::Error) -> io::Result<Option<Group>> {
    match Errno::from_io_error(&error) {
        Some(Errno::NOSYS | Errno::INVAL) => Ok(None),
        _ => Err(error),
    }
}
