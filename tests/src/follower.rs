//! Follows the standard error of a running ebusy, and asks it if it has seen what a test did.
//!
//! A watching ebusy answers SIGUSR1 once it has handled everything that had happened by then ([`Follower::catch_up`]).
//! So a test waits exactly as long as it needs to, however loaded the machine is.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read},
    process::{Child, ExitStatus},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::holder::PATIENCE;

/// Prefix of the line that ebusy prints when it watches; from then on it handles the signal.
const WATCHING: &str = "watching ";
/// Last line of its answer to the signal.
const NOW: &str = "now: ";
/// Prefix of the line for the target of an open incident in its answer.
const BUSY: &str = "still busy: ";

/// Time after which its end is noticed at the latest.
const CHECK: Duration = Duration::from_millis(50);

/// All followers that this process has started.
static ALL: Mutex<Vec<Weak<Follower>>> = Mutex::new(Vec::new());

/// References of the targets of open incidents, by the ids of the mounts.
pub type Busy = BTreeMap<u32, u64>;

/// `still busy: PATH (mount 123): 4 references`, or `1 reference`
fn busy(line: &str) -> Option<(u32, u64)> {
    let (_, rest) = line.strip_prefix(BUSY)?.rsplit_once(" (mount ")?;
    let (id, rest) = rest.split_once("): ")?;
    Some((id.parse().ok()?, rest.split_once(' ')?.0.parse().ok()?))
}

/// A run of ebusy.
#[derive(Debug)]
pub struct Follower {
    pid: u32,
    child: Mutex<Child>,
    log: Mutex<String>,
    grown: Condvar,
    /// Locked while a thread waits for an answer.
    asking: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Follower {
    /// Follows a run that has just been started.
    #[must_use]
    pub fn of(child: Child) -> Arc<Self> {
        let follower = Arc::new(Self {
            pid: child.id(),
            child: Mutex::new(child),
            log: Mutex::default(),
            grown: Condvar::new(),
            asking: Mutex::default(),
        });
        let mut all = lock(&ALL);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&follower));
        follower
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Reads its standard error until it ends.
    pub fn read(&self, output: impl Read) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            lock(&self.log).push_str(&String::from_utf8_lossy(&line));
            self.grown.notify_all();
            line.clear();
        }
    }

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        lock(&self.log).clone()
    }

    /// Waits for a line with this prefix.
    pub fn wait_for(&self, start: &str) -> Result<String> {
        self.wait(0, |log| {
            let line = log.split_inclusive('\n').find(|line| line.starts_with(start))?;
            Some(line.trim_end().to_owned())
        })
        .with_context(|| format!("no line that starts with {start:?}"))
    }

    /// Waits until its output from some byte on matches.
    fn wait<T>(&self, from: usize, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut log = lock(&self.log);
        loop {
            if let Some(found) = look(&log[from..]) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("not after {} s\n{log}", PATIENCE.as_secs());
            }
            // Its end does not count as a line.
            let (guard, _) = self
                .grown
                .wait_timeout(log, left.min(CHECK))
                .unwrap_or_else(PoisonError::into_inner);
            log = guard;
        }
    }

    /// Waits until it has handled everything that has happened so far; returns the references of the mounts that it
    /// reports as still busy, by their ids. Returns nothing if it has ended, is stopped, or does not watch.
    pub fn catch_up(&self) -> Result<Busy> {
        let _asking = lock(&self.asking);
        let from = {
            let log = lock(&self.log);
            if !log.lines().any(|line| line.starts_with(WATCHING)) {
                return Ok(Busy::new());
            }
            log.len()
        };
        if self.is_stopped() || !self.signal_if_alive(Signal::USR1)? {
            return Ok(Busy::new());
        }
        let answer = |said: &str| {
            let mut lines = said.split_inclusive('\n');
            // An incomplete line is no answer yet.
            let whole = lines.by_ref().filter(|line| line.ends_with('\n'));
            let lines: Vec<&str> = whole.collect();
            let end = lines.iter().position(|line| line.starts_with(NOW))?;
            Some(lines[..end].iter().filter_map(|line| busy(line)).collect())
        };
        // It may end, or be stopped, instead of answering.
        self.wait(from, |said| {
            answer(said).or_else(|| self.has_ended().then(Busy::new))
        })
        .context("it does not catch up")
    }

    /// A test may have stopped it: it acts on signals once it is continued.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_some_and(|state| state.starts_with('T'))
    }

    fn has_ended(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(Some(_)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sent = self.signal_if_alive(signal)?;
        ensure!(sent, "it has ended\n{}", self.log());
        Ok(())
    }

    /// Its pid is not reused until somebody waits for it, which takes the same lock.
    fn signal_if_alive(&self, signal: Signal) -> Result<bool> {
        let mut child = lock(&self.child);
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let pid = Pid::from_raw(child.id().cast_signed()).context("a process id is positive")?;
        kill_process(pid, signal)?;
        Ok(true)
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        Ok(lock(&self.child).try_wait()?)
    }

    /// Ends it.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until each ebusy that this process runs has handled everything that has happened so far; returns the mounts
/// that any of them reports as still busy.
pub fn catch_up() -> Result<Busy> {
    let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
    let mut busy = Busy::new();
    for follower in all {
        busy.extend(follower.catch_up()?);
    }
    Ok(busy)
}

#[cfg(test)]
mod tests {
    use super::busy;

    #[test]
    fn reads_what_is_busy() {
        let line = "still busy: /run/a (mount 1): b (mount 12): 4 references\n";
        assert_eq!(busy(line), Some((12, 4)));
        assert_eq!(
            busy("still busy: /run/a (mount 12): 1 reference\n"),
            Some((12, 1))
        );
        assert_eq!(busy("still busy: /run/a"), None);
        assert_eq!(busy("now: 3 umounts"), None);
    }
}
