//! An interrupted run leaves nothing behind: it ends its processes and removes everything that its tests made.

use std::{
    fs, process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on, an interrupt ends all running processes, cleans up, and exits as a shell would.
pub(crate) fn watch(clean: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("watching for interrupts")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            crate::say(&format!("interrupted by signal {signal}: cleaning up"));
            // They would make again what is being removed.
            for child in children() {
                let _ = kill_process(child, Signal::KILL);
            }
            clean();
            process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Blocks after an interrupt, so that nothing new begins: the process is about to exit.
pub(crate) fn hold() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn finds_its_children() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let found = children().contains(&Pid::from_child(&child));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
