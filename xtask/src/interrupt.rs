//! An interrupted run leaves nothing behind: what it started is ended, and what its tests made is taken away.

use std::{
    process::{self, Child},
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// The process that is to be ended first: it would go on to make what is taken away.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Marks a process as no longer running, when dropped.
#[derive(Debug)]
pub(crate) struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.store(0, Ordering::SeqCst);
    }
}

/// An interrupt ends this process, as long as the guard lives.
pub(crate) fn ends(child: &Child) -> Guard {
    RUNNING.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    Guard
}

/// From now on, ends what runs, cleans up, and exits as a shell would. Machines follow this program by themselves.
pub(crate) fn watch(clean: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("watching for interrupts")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            crate::say(&format!("interrupted by signal {signal}: cleaning up"));
            if let Some(pid) = Pid::from_raw(RUNNING.load(Ordering::SeqCst)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            clean();
            process::exit(128 + signal);
        }
    });
    Ok(())
}
