//! What ebusy got from who started it. A command that it runs gets the same; ebusy itself lives with what suits it.
//!
//! The standard library changes two things before `main`: it ignores SIGPIPE, and opens `/dev/null` where one of the
//! first three descriptors is closed. Both survive an exec, so what was there is looked at before that.

use std::{
    os::fd::RawFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, parent_process_death_signal, set_parent_process_death_signal};

/// The first descriptors, a bit each, that were closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);
/// SIGPIPE ended us.
static SIGPIPE: AtomicBool = AtomicBool::new(false);
/// Descriptors besides the first three.
static OTHERS: OnceLock<Vec<RawFd>> = OnceLock::new();

/// Descriptors for what everybody has.
const STANDARD: [RawFd; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

#[used]
// SAFETY: the C library calls what is in this section before `main`, with arguments that this function does not take.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for descriptor in STANDARD {
        // SAFETY: asks for flags, no more.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << descriptor, Ordering::Relaxed);
        }
    }
    SIGPIPE.store(is_default(libc::SIGPIPE), Ordering::Relaxed);
}

fn is_default(signal: libc::c_int) -> bool {
    // SAFETY: of zeros it is a valid value, and the kernel fills it in.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_DFL
    }
}

/// Notes what is open. To be called before ebusy opens anything.
pub(super) fn note() {
    OTHERS.get_or_init(|| {
        let Ok(listed) = std::fs::read_dir("/proc/self/fd") else {
            return Vec::new();
        };
        let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let numbers: Vec<RawFd> = numbers.filter(|number| !STANDARD.contains(number)).collect();
        // Among them is the one that they were listed by; it is closed now.
        let is_open = |number: &RawFd| {
            // SAFETY: asks for flags, no more.
            unsafe { libc::fcntl(*number, libc::F_GETFD) != -1 }
        };
        numbers.into_iter().filter(is_open).collect()
    });
}

/// It was closed when ebusy was started, so that nobody gets what is written there.
pub(super) fn was_closed(descriptor: RawFd) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << descriptor) != 0
}

/// What a fork does not keep.
#[derive(Debug)]
pub(super) struct ForCommand {
    death_signal: Option<Signal>,
}

impl ForCommand {
    /// Before the fork.
    pub(super) fn new() -> Result<Self> {
        let death_signal = parent_process_death_signal().context("asking for our parent death signal")?;
        Ok(Self { death_signal })
    }

    /// In the new process, last of all before its exec: async-signal-safe.
    pub(super) fn restore(&self) {
        // With ebusy, which ends with its parent, the command does.
        let _ = set_parent_process_death_signal(self.death_signal);
        if SIGPIPE.load(Ordering::Relaxed) {
            // SAFETY: no handler is involved.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        }
        for descriptor in STANDARD.into_iter().filter(|descriptor| was_closed(*descriptor)) {
            // SAFETY: what the standard library has opened there is used by nobody between here and the exec.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Makes ebusy independent of who started it, for a run that is long: what was inherited for the command is held by the
/// command alone, and no signal that only means "do not write there" ends or stops it. After the fork of the command, if
/// there is one.
pub(super) fn settle_in() -> Result<()> {
    // SAFETY: no handler is involved, and the set is of the type that the call takes.
    unsafe {
        // A file size limit, and a terminal that lets no background job write (stty tostop).
        for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTOU] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // Where it is ignored, nobody is told how a command ended.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    let null = std::fs::File::open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("letting go of stdin")?;
    for descriptor in OTHERS.get().into_iter().flatten() {
        // SAFETY: they were open when `main` began, so that nothing in this process owns them.
        unsafe { libc::close(*descriptor) };
    }
    Ok(())
}
