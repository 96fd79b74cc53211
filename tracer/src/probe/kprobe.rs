//! Kprobes and kretprobes. A kprobe comes from the event source of that name, goes with its descriptor and leaves nothing
//! behind. That source gives a kretprobe no more instances than there are CPUs (5.10, without preemption): with as many
//! umounts asleep in the kernel, the next returns unseen. So kretprobes are events of tracefs, which take a number, and
//! are removed when they are dropped, or by the next ebusy.

use std::{
    ffi::CString,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::{
    tier::At,
    tracefs::{Attached, Created, Tracefs, attach_event, connect},
};

/// Where the kernel describes the event source; Linux 4.17 on.
const SOURCE: &str = "/sys/bus/event_source/devices/kprobe";

/// What GCC and clang call a clone of a function of which they took arguments or code away.
const CLONES: [&str; 3] = [".isra.0", ".constprop.0", ".part.0"];

/// Calls of one function that may be under way at once without one being missed.
const INSTANCES: usize = 1024;

/// The group of our events in tracefs.
const GROUP: &str = "ebusy";

/// Attaches programs to functions.
#[derive(Debug)]
pub(super) struct Kprobes {
    /// Without it, returns are seen as far as the event source has instances.
    tracefs: Option<Tracefs>,
}

impl Kprobes {
    pub(super) fn new() -> Self {
        let tracefs = Tracefs::open()
            .inspect_err(|error| log::info!("kretprobes have few instances: {error:#}"))
            .ok();
        if let Some(tracefs) = &tracefs {
            remove_stale(tracefs);
        }
        Self { tracefs }
    }

    /// Attaches a program to a function.
    pub(super) fn attach(&self, program: impl AsFd, function: &str, at: At) -> Result<Attached> {
        if at == At::Return
            && let Some(tracefs) = &self.tracefs
        {
            match create(tracefs, function) {
                Ok((created, id)) => {
                    let mut attached = attach_event(program, id, function)?;
                    attached.created = Some(created);
                    return Ok(attached);
                }
                Err(error) => log::debug!("kretprobe {function} by tracefs: {error:#}"),
            }
        }
        connect(program, open(function, at)?, function)
    }

    /// Attaches a program to a function, or to a clone of it.
    pub(super) fn attach_or_clone(&self, program: impl AsFd, function: &str, at: At) -> Result<Attached> {
        let exact = self.attach(&program, function, at);
        let Err(error) = exact else { return exact };
        CLONES
            .iter()
            .find_map(|clone| self.attach(&program, &format!("{function}{clone}"), at).ok())
            .ok_or(error)
    }

    /// What our events of tracefs missed, by function.
    pub(super) fn missed(&self, attached: &[Attached]) -> Vec<(String, u64)> {
        let Some(tracefs) = &self.tracefs else {
            return Vec::new();
        };
        let profile = read(tracefs, "kprobe_profile").unwrap_or_default();
        attached
            .iter()
            .filter_map(|attached| {
                let event = &attached.created.as_ref()?.event;
                Some((attached.name.clone(), misses(&profile, event)?))
            })
            .collect()
    }
}

/// The misses of an event in the text of `kprobe_profile`: name, hits, misses.
fn misses(profile: &str, event: &str) -> Option<u64> {
    let line = profile.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(event)).then_some(words)
    });
    line?.nth(1)?.parse().ok()
}

fn read(tracefs: &Tracefs, name: &str) -> Result<String> {
    let mut text = String::new();
    File::from(tracefs.open_file(name)?)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {name} in tracefs"))?;
    Ok(text)
}

/// Makes an event in tracefs; with its number.
fn create(tracefs: &Tracefs, function: &str) -> Result<(Created, u64)> {
    let mut events = File::from(tracefs.open_to_append("kprobe_events")?);
    let event = format!("{}_{}", function.replace('.', "_"), std::process::id());
    events
        .write_all(format!("r{INSTANCES}:{GROUP}/{event} {function}\n").as_bytes())
        .with_context(|| format!("adding the event {event}"))?;
    let created = Created::new(events, GROUP, event);
    let id = tracefs
        .event(GROUP, &created.event)?
        .context("the event that was just added is not there")?;
    Ok((created, id))
}

/// Removes events that an ebusy left which was killed. Those of a live one are in use, which the kernel refuses.
fn remove_stale(tracefs: &Tracefs) {
    let Ok(text) = read(tracefs, "kprobe_events") else {
        return;
    };
    for event in ours(&text) {
        let pid = event.rsplit('_').next().unwrap_or_default();
        if !std::path::Path::new("/proc").join(pid).exists()
            && let Ok(events) = tracefs.open_to_append("kprobe_events")
        {
            let removed = File::from(events).write_all(format!("-:{GROUP}/{event}\n").as_bytes());
            log::debug!("the event {event} was left behind: {removed:?}");
        }
    }
}

/// Names of our events in the text of `kprobe_events`: `r1024:ebusy/path_umount_4242 path_umount`.
pub(super) fn ours(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, name) = line.split_ascii_whitespace().next()?.split_once(':')?;
        name.strip_prefix(GROUP)?.strip_prefix('/')
    })
}

fn open(function: &str, at: At) -> Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    /// `PERF_ATTR_SIZE_VER1`: up to `config2`.
    const SIZE: usize = 72;
    let number = |file: &str| {
        let text = std::fs::read_to_string(format!("{SOURCE}/{file}"))
            .context("this kernel has no kprobes (CONFIG_KPROBE_EVENTS=y, CONFIG_PERF_EVENTS=y)")?;
        let digits = text.trim().trim_start_matches("config:");
        digits
            .parse::<u32>()
            .with_context(|| format!("{SOURCE}/{file} has {text:?}"))
    };
    let config = match at {
        At::Entry => 0,
        At::Return => 1u64 << number("format/retprobe")?.min(63),
    };
    let name = CString::new(function).context("the name of the function has a NUL")?;
    // struct perf_event_attr (uapi/linux/perf_event.h): type, size, config, ..., config1 (the function), config2 (the
    // offset in it, 0).
    let mut attributes = [0u8; SIZE];
    attributes[0..4].copy_from_slice(&number("type")?.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(SIZE as u32).to_ne_bytes());
    attributes[8..16].copy_from_slice(&config.to_ne_bytes());
    attributes[56..64].copy_from_slice(&(name.as_ptr() as u64).to_ne_bytes());
    // The program is called on every CPU, whichever the event is opened on.
    // SAFETY: the attributes are as long as they say, and the name outlives the call; the kernel copies both.
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
        return Err(match error.raw_os_error() {
            Some(libc::ENOENT) => anyhow::anyhow!("this kernel has no function {function}"),
            _ => anyhow::Error::new(error).context(format!("perf_event_open of kprobe {function}")),
        });
    }
    // SAFETY: the descriptor was just made, and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::{misses, ours};

    #[test]
    fn our_events_in_tracefs() {
        let text = "p:kprobes/other_1 other\nr1024:ebusy/path_umount_4242 path_umount\n\nr:ebusyx/no_1 no\n";
        assert_eq!(ours(text).collect::<Vec<_>>(), ["path_umount_4242"]);
        let profile = "  other_1      12     0\n  path_umount_4242      900     3\n";
        assert_eq!(misses(profile, "path_umount_4242"), Some(3));
        assert_eq!(misses(profile, "path_umount"), None);
        assert_eq!(misses("path_umount_4242", "path_umount_4242"), None);
    }
}
