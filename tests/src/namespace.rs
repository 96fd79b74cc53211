//! Mount namespaces: entering a new one, its number, and the ids of mounts.

use std::{
    fs,
    io::{Error, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::Path,
    str::FromStr,
};

use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    mount::{MountPropagationFlags, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::process::ForkedChild;

/// The namespace that a program takes its reference in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// The one that it was started in.
    Same,
    /// A new one, whose mounts are peers of those it was copied from.
    Shared,
    /// A new one, whose mounts are slaves of those it was copied from (`HostToContainer`).
    Slave,
    /// A new one, whose mounts are slaves of those of a slave namespace, which another process is in.
    Nested,
    /// A new one that belongs to a new user namespace: the kernel makes its mounts slaves.
    User,
    /// A new one that receives and sends no mounts.
    Private,
}

impl Namespace {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Shared => "shared",
            Self::Slave => "slave",
            Self::Nested => "nested",
            Self::User => "user",
            Self::Private => "private",
        }
    }

    /// Enters it; call this while the process has one thread.
    pub fn enter(self) -> std::io::Result<()> {
        let propagation = match self {
            Self::Same => return Ok(()),
            Self::Shared => None,
            Self::User => return enter_user_namespace(),
            Self::Nested => {
                Self::Slave.enter()?;
                set_propagation(MountPropagationFlags::SHARED)?;
                // It stays a slave of a slave as long as a process is in the namespace between.
                std::mem::forget(ForkedChild::pause()?);
                Some(MountPropagationFlags::DOWNSTREAM)
            }
            Self::Slave => Some(MountPropagationFlags::DOWNSTREAM),
            Self::Private => Some(MountPropagationFlags::PRIVATE),
        };
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        match propagation {
            Some(flags) => set_propagation(flags),
            None => Ok(()),
        }
    }
}

impl FromStr for Namespace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        use Namespace::{Nested, Private, Same, Shared, Slave, User};
        [Same, Shared, Slave, Nested, User, Private]
            .into_iter()
            .find(|namespace| namespace.name() == text)
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("no such propagation: {text}")))
    }
}

/// Root stays root, by a mapping of its own.
fn enter_user_namespace() -> std::io::Result<()> {
    // SAFETY: no file descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    fs::write("/proc/self/uid_map", "0 0 1")?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", "0 0 1")
}

/// Enters a new mount namespace where every mount is shared, with no peer outside of it.
pub fn enter_isolated() -> std::io::Result<()> {
    Namespace::Private.enter()?;
    set_propagation(MountPropagationFlags::SHARED)
}

fn set_propagation(flags: MountPropagationFlags) -> std::io::Result<()> {
    Ok(mount_change("/", flags | MountPropagationFlags::REC)?)
}

/// The inode number of the calling process's mount namespace.
pub fn current() -> std::io::Result<u32> {
    number("self")
}

/// The inode number of a process's mount namespace.
pub fn of(pid: u32) -> std::io::Result<u32> {
    number(&pid.to_string())
}

fn number(pid: &str) -> std::io::Result<u32> {
    let inode = fs::metadata(format!("/proc/{pid}/ns/mnt"))?.ino();
    u32::try_from(inode).map_err(|_| Error::other(format!("namespace {inode} does not fit in 32 bits")))
}

/// `struct mount.mnt_id` of the mount that a path is on, in the caller's namespace.
pub fn mount_id(path: &Path) -> std::io::Result<u32> {
    let answer = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
    u32::try_from(answer.stx_mnt_id)
        .map_err(|_| Error::other(format!("mount id {} does not fit in 32 bits", answer.stx_mnt_id)))
}
