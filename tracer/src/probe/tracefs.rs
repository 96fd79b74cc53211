//! Events of the kernel: their ids from tracefs, which is mounted detached where the host has it not, and their
//! attachment.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::bpf;

/// The events of tracefs.
#[derive(Debug)]
pub struct Tracefs {
    root: OwnedFd,
    /// Whether the host had it mounted.
    pub mounted: bool,
}

impl Tracefs {
    /// Opens tracefs where it is mounted; otherwise makes a mount of it that is in no namespace, so that nothing
    /// changes on the host and nothing is left behind.
    pub fn open() -> Result<Self> {
        for path in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
            if Path::new(path).join("events/syscalls").is_dir() {
                let root = openat(
                    CWD,
                    path,
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .with_context(|| format!("opening {path}"))?;
                return Ok(Self { root, mounted: true });
            }
        }
        let root = Self::detached().context(
            "tracefs is not mounted and could not be mounted privately; \
             mend it with: mount -t tracefs tracefs /sys/kernel/tracing",
        )?;
        Ok(Self { root, mounted: false })
    }

    fn detached() -> Result<OwnedFd> {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen")?;
        fsconfig_create(context.as_fd()).context("fsconfig")?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).context("fsmount")
    }

    /// A descriptor of a file that reads nothing (`O_PATH`).
    pub fn descriptor(&self, path: &str) -> Result<OwnedFd> {
        openat(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {path} in tracefs"))
    }

    /// Id of an event; `None` where this kernel has none of that name.
    pub fn event(&self, group: &str, name: &str) -> Result<Option<u64>> {
        let path = format!("events/{group}/{name}/id");
        let file = match openat(&self.root, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {path} in tracefs")),
        };
        let mut text = String::new();
        File::from(file)
            .read_to_string(&mut text)
            .with_context(|| format!("reading {path} in tracefs"))?;
        text.trim()
            .parse()
            .map(Some)
            .with_context(|| format!("{path} in tracefs has {text:?}"))
    }

    /// Opens a file to read it.
    pub(super) fn open_file(&self, name: &str) -> Result<OwnedFd> {
        openat(&self.root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {name} in tracefs"))
    }

    /// Opens a file to write to it. Without `O_APPEND` all events of everybody would be removed.
    pub(super) fn open_to_append(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::empty()).with_context(|| format!("opening {name} in tracefs"))
    }
}

/// A program attached to an event, until it is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    /// What it is attached to, for people.
    pub(super) name: String,
    /// Linux 5.15 on.
    pub(super) link: Option<OwnedFd>,
    _event: OwnedFd,
    /// The event, if it is ours; dropped last, because an event in use stays.
    pub(super) created: Option<Created>,
}

/// An event that we made; it is removed when this is dropped, which must be after all that uses it.
#[derive(Debug)]
pub(super) struct Created {
    events: File,
    group: &'static str,
    pub(super) event: String,
}

impl Created {
    /// Of this group and name, with the file that it was written to.
    pub(super) fn new(events: File, group: &'static str, event: String) -> Self {
        Self { events, group, event }
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let removal = format!("-:{}/{}\n", self.group, self.event);
        if let Err(error) = self.events.write_all(removal.as_bytes()) {
            log::debug!("removing the event {}: {error}", self.event);
        }
    }
}

/// Attaches a program to an event. aya does it only where tracefs is mounted.
pub(super) fn attach(program: impl AsFd, event: u64, name: &str) -> Result<Attached> {
    connect(program, open(event)?, name)
}

/// The same without a link, which would keep the event in use for a while after it is closed (Linux 5.15 frees links
/// in the background).
pub(super) fn attach_event(program: impl AsFd, event: u64, name: &str) -> Result<Attached> {
    set(program, open(event)?, name)
}

fn open(event: u64) -> Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    /// `PERF_ATTR_SIZE_VER1`: what has been there since Linux 2.6.33 is enough.
    const SIZE: usize = 72;
    // struct perf_event_attr (uapi/linux/perf_event.h): type, size, config, sample_period...
    let mut attributes = [0u8; SIZE];
    attributes[0..4].copy_from_slice(&PERF_TYPE_TRACEPOINT.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(SIZE as u32).to_ne_bytes());
    attributes[8..16].copy_from_slice(&event.to_ne_bytes());
    // The program is called on every CPU, whichever the event is opened on.
    // SAFETY: the attributes are as long as they say; the kernel copies them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        bail!(
            "perf_event_open of tracepoint {event}: {error} (needs CAP_PERFMON; see kernel.perf_event_paranoid)"
        );
    }
    // SAFETY: the descriptor was just made, and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Connects a program with an event: by a link, which tells what it missed, else (before Linux 5.15) by the event
/// alone.
pub(super) fn connect(program: impl AsFd, event: OwnedFd, name: &str) -> Result<Attached> {
    if let Ok(link) = bpf::link_create(program.as_fd(), event.as_fd(), bpf::PERF_EVENT) {
        return Ok(Attached {
            name: name.to_owned(),
            link: Some(link),
            _event: event,
            created: None,
        });
    }
    set(program, event, name)
}

fn set(program: impl AsFd, event: OwnedFd, name: &str) -> Result<Attached> {
    const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: u64 = 0x4004_2408;
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_fd().as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as libc::Ioctl, argument) } < 0 {
            let error = std::io::Error::last_os_error();
            return Err(error).with_context(|| format!("attaching a program to {name}"));
        }
    }
    Ok(Attached {
        name: name.to_owned(),
        link: None,
        _event: event,
        created: None,
    })
}
