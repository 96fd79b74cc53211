//! ebusy must never wait for others (docs/security.md); if it does anyway, this reports it. A second thread watches the
//! main loop: after 10 s in one step it names the step, after 60 s it ends ebusy. All records are on the disk by then,
//! as another thread writes them. The watchdog takes no lock and makes no call that the main loop could be stuck in.

mod steps;
mod verdict;

use std::{
    borrow::Cow,
    io::{self, stderr, stdout},
    panic,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
    thread::{UnshareFlags, unshare_unsafe},
    time::{ClockId, clock_gettime},
};

pub(crate) use self::steps::{Step, base, within, within_process};
use self::{
    steps::{MAIN, Seen},
    verdict::{Patience, Verdict},
};
use crate::{confine, text::escape};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);
/// A signal this soon after the first is the same request: timeout(1) sends two.
const TWICE: u64 = 300_000_000;
/// Exit status of a run that its watchdog ended (`EX_TEMPFAIL` of sysexits.h).
pub(crate) const STUCK: u8 = 75;

/// When a signal first asked ebusy to end, boot clock, ns.
static ASKED: AtomicU64 = AtomicU64::new(0);
/// The folder of a recording.
static CAPTURE: OnceLock<PathBuf> = OnceLock::new();

/// Starts it, in the step `Starting`. It has its own root and working directory, because those of the calling thread
/// may still move into another mount namespace.
pub(crate) fn start() -> Result<()> {
    let (ready, apart) = mpsc::channel();
    thread::Builder::new()
        .name("ebusy-watchdog".to_owned())
        .spawn(move || {
            let _ = ready.send(alone());
            watch();
        })
        .context("starting the watchdog")?;
    apart
        .recv()
        .context("starting the watchdog")?
        .context("taking the privileges of the watchdog away")
}

/// Shares no directory with the main thread, and may do nothing.
fn alone() -> Result<()> {
    // SAFETY: only descriptors could become those of somebody else, and these stay shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    confine::no_capabilities()?;
    confine::write_only_below(&[]);
    Ok(())
}

/// Sets the folder of the recording, for the last message.
pub(crate) fn records_to(folder: &Path) {
    let _ = CAPTURE.set(folder.to_owned());
}

/// From now on a second SIGINT or SIGTERM ends ebusy at once, in any state of the main loop. The handling of the first
/// does not change.
pub(crate) fn second_signal_ends() -> io::Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let number = signal.as_raw();
        let action = move || {
            let now = clock_gettime(ClockId::Boottime);
            let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
            if let Err(first) = ASKED.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
                && now.saturating_sub(first) > TWICE
            {
                // SAFETY: ends the process; may be called in a signal handler.
                unsafe { libc::_exit(128 + number) };
            }
        };
        // SAFETY: the action reads a clock, changes an atomic, and may end the process.
        unsafe { signal_hook_registry::register(number, action) }?;
    }
    Ok(())
}

fn watch() -> ! {
    let mut patience = Patience::default();
    let mut last = Instant::now();
    loop {
        thread::sleep(LOOK);
        let now = Instant::now();
        let asked = ASKED.load(Ordering::Relaxed) != 0;
        let seen = MAIN.see();
        let unread = !takes(&stdout()) || !takes(&stderr());
        let verdict = patience.look(now - last, seen.as_ref(), asked, unread);
        last = now;
        match (verdict, &seen) {
            (Verdict::Fine, _) | (Verdict::Long(_) | Verdict::End(_), None) => {}
            (Verdict::Over(stood), _) => say(&format!("going on, after {} s", stood.as_secs())),
            (Verdict::Long(stood), Some(seen)) => say(&long(seen, stood, asked, &Thread::main())),
            (Verdict::End(stood), Some(seen)) => {
                // Ends the process even if the message fails.
                let words = panic::catch_unwind(|| end(seen, stood, &Thread::main(), CAPTURE.get()));
                say(&words.unwrap_or_default());
                // SAFETY: ends the process without waiting for any thread; nothing is left in a buffer that a
                // recording needs.
                unsafe { libc::_exit(i32::from(STUCK)) };
            }
        }
    }
}

/// The main thread's place in the kernel.
struct Thread {
    /// `D`: no signal wakes it.
    deaf: bool,
    function: Option<String>,
}

impl Thread {
    fn main() -> Self {
        let pid = std::process::id();
        let read = |name: &str| std::fs::read(format!("/proc/self/task/{pid}/{name}")).unwrap_or_default();
        Self::of(&read("stat"), &read("wchan"))
    }

    fn of(stat: &[u8], wchan: &[u8]) -> Self {
        let state = stat
            .iter()
            .rposition(|byte| *byte == b')')
            .and_then(|end| stat.get(end + 2));
        let function = std::str::from_utf8(wchan).ok().filter(|name| name.len() > 1);
        Self {
            deaf: state == Some(&b'D'),
            function: function.map(|name| escape(name.as_bytes())),
        }
    }

    fn place(&self) -> Cow<'static, str> {
        match &self.function {
            Some(function) => format!(" (waiting in the kernel: {function})").into(),
            None => "".into(),
        }
    }
}

fn step(seen: &Seen) -> String {
    let words = seen.step.words();
    if seen.subject.is_empty() {
        words.to_owned()
    } else {
        format!("{words} {}", escape(&seen.subject))
    }
}

fn long(seen: &Seen, stood: Duration, asked: bool, thread: &Thread) -> String {
    let then = if asked {
        "a second signal ends it at once".to_owned()
    } else if seen.step.may_last() {
        "what happens meanwhile is reported late".to_owned()
    } else {
        format!("what happens meanwhile is reported late; after 60 s it ends itself (exit status {STUCK})")
    };
    format!(
        "stuck for {} s {}{}; {then}",
        stood.as_secs(),
        step(seen),
        thread.place()
    )
}

fn end(seen: &Seen, stood: Duration, thread: &Thread, capture: Option<&PathBuf>) -> String {
    let kept = capture.map_or_else(String::new, |folder| {
        format!(
            "; what was recorded is kept, see: ebusy report {}",
            escape(folder.as_os_str().as_encoded_bytes())
        )
    });
    let deaf = if thread.deaf {
        "; the kernel lets the process go only once that wait is over"
    } else {
        ""
    };
    format!(
        "stuck for {} s {}{}: ending with status {STUCK}{kept}{deaf}; start ebusy again, and please report this line",
        stood.as_secs(),
        step(seen),
        thread.place()
    )
}

/// True if writing a line would not wait.
fn takes(fd: &impl rustix::fd::AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A closed or broken descriptor fails at once.
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// Bypasses the lock of stderr, which the main loop may hold; and only if the write does not wait.
fn say(words: &str) {
    if takes(&stderr()) {
        let _ = rustix::io::write(stderr(), format!("ebusy: {words}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::{
        Thread, end, long,
        steps::{Seen, Step},
    };

    const STOOD: Duration = Duration::from_mins(1);

    fn seen() -> Seen {
        Seen {
            turn: 2,
            step: Step::References,
            subject: b"/mnt/\x1b[31m".to_vec(),
        }
    }

    #[test]
    fn what_is_said_has_step_place_and_what_follows() {
        let stat = b"7 (a) D (b) D 1 7 7";
        let thread = Thread::of(stat, b"request_wait_answer");
        assert!(thread.deaf);
        insta::assert_snapshot!(end(&seen(), STOOD, &thread, Some(&PathBuf::from("/var/tmp/x"))), @r"stuck for 60 s reading the references of /mnt/\x1b[31m (waiting in the kernel: request_wait_answer): ending with status 75; what was recorded is kept, see: ebusy report /var/tmp/x; the kernel lets the process go only once that wait is over; start ebusy again, and please report this line");
        let running = Thread::of(b"7 (ebusy) R 1", b"0");
        insta::assert_snapshot!(long(&seen(), STOOD, false, &running), @r"stuck for 60 s reading the references of /mnt/\x1b[31m; what happens meanwhile is reported late; after 60 s it ends itself (exit status 75)");
        insta::assert_snapshot!(long(&seen(), STOOD, true, &running), @r"stuck for 60 s reading the references of /mnt/\x1b[31m; a second signal ends it at once");
        assert!(!Thread::of(b"", b"").deaf);
    }
}
