//! Kernel lockdown: at `confidentiality` the kernel lets nobody read its memory, not even root.
//!
//! What that takes away (include/linux/security.h, everything up to `LOCKDOWN_CONFIDENTIALITY_MAX`): the helper
//! `bpf_probe_read_kernel`, which fails at run time before Linux 5.14 and is refused by the verifier since; kprobes; and
//! every file of tracefs. At `integrity` none of that. Tracing programs would still load, but can only look at their
//! arguments: nothing in user space could follow what they tell.

use std::{fmt, fs::File, io::Read as _, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// How far the kernel is locked down against root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all.
    Off,
    /// It lets nobody change it.
    Integrity,
    /// It lets nobody read it either.
    Confidentiality,
}

impl Lockdown {
    /// The state now; `None` where this kernel has no lockdown.
    pub fn now() -> Result<Option<Self>> {
        let mounted = openat(
            CWD,
            "/sys/kernel/security/lockdown",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let file = match mounted {
            Ok(file) => file,
            // It is the same where securityfs is not mounted, as in most containers.
            Err(rustix::io::Errno::NOENT) => match detached()? {
                Some(file) => file,
                None => return Ok(None),
            },
            Err(error) => return Err(error).context("opening lockdown in securityfs"),
        };
        let mut text = String::new();
        File::from(file)
            .read_to_string(&mut text)
            .context("reading lockdown in securityfs")?;
        parse(&text)
            .map(Some)
            .with_context(|| format!("lockdown in securityfs has {text:?}"))
    }
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

/// The file, by a mount of securityfs that is in no namespace; `None` where the kernel has not the one or the other.
fn detached() -> Result<Option<std::os::fd::OwnedFd>> {
    let context = match fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(rustix::io::Errno::NODEV) => return Ok(None),
        Err(error) => return Err(error).context("securityfs is not mounted, and fsopen of it failed"),
    };
    fsconfig_create(context.as_fd()).context("fsconfig of securityfs")?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root =
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).context("fsmount of securityfs")?;
    match openat(&root, "lockdown", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error).context("opening lockdown in securityfs"),
    }
}

/// `none [integrity] confidentiality`: the one in brackets.
pub(super) fn parse(text: &str) -> Option<Lockdown> {
    let inside = text.split_once('[')?.1.split_once(']')?.0;
    [Lockdown::Off, Lockdown::Integrity, Lockdown::Confidentiality]
        .into_iter()
        .find(|lockdown| lockdown.to_string() == inside)
}

/// The kernel's memory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel is locked down (lockdown=confidentiality): nobody may read its memory, place kprobes or open tracefs; \
     boot with lockdown=integrity"
)]
pub struct LockedDown;

/// An error where nothing of the kernel can be read. What cannot be found out is no error: then the programs tell.
pub(super) fn check() -> Result<(), LockedDown> {
    match Lockdown::now() {
        Ok(Some(Lockdown::Confidentiality)) => Err(LockedDown),
        Ok(_) => Ok(()),
        Err(error) => {
            log::debug!("lockdown is not known: {error:#}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lockdown, parse};

    #[test]
    fn the_state_is_in_brackets() {
        assert_eq!(parse("[none] integrity confidentiality\n"), Some(Lockdown::Off));
        assert_eq!(
            parse("none integrity [confidentiality]\n"),
            Some(Lockdown::Confidentiality)
        );
        // A kernel that was built to enforce one has no other.
        assert_eq!(parse("[integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(parse("none integrity\n"), None);
        assert_eq!(parse("[mystery]\n"), None);
    }
}
