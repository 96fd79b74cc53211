//! A set of landlock rules, by its raw system calls.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

use rustix::io::Errno;

/// `LANDLOCK_ACCESS_FS_READ_FILE`.
const READ_FILE: u64 = 1 << 2;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_long = 1;

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// A set with a rule on a directory, which restricts nobody; `None` where the kernel has no landlock (Linux 5.13 on,
/// and not every configuration).
pub fn rules_on(directory: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let handled = READ_FILE;
    // SAFETY: the attribute is one number of that size.
    let rules = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::from_ref(&handled),
            size_of_val(&handled),
            0,
        )
    };
    if rules < 0 {
        let error = io::Error::last_os_error();
        return match Errno::from_io_error(&error) {
            Some(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: the call has just opened it.
    let rules = unsafe { OwnedFd::from_raw_fd(rules as i32) };
    let rule = PathBeneath {
        allowed: READ_FILE,
        parent: directory.as_raw_fd(),
    };
    // SAFETY: the rule is as the kernel's type.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            PATH_BENEATH,
            ptr::from_ref(&rule),
            0,
        )
    };
    if added == 0 {
        Ok(Some(rules))
    } else {
        Err(io::Error::last_os_error())
    }
}
