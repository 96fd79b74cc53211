//! `ebusy record` under test.

use std::{ffi::OsStr, path::Path};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{
    capture::Capture,
    ebusy::{Finished, Running, command},
    harness,
};

/// A recorder.
#[derive(Debug)]
pub struct Recording {
    /// Its process.
    pub running: Running,
}

impl Recording {
    /// Starts one that sees who opens files on a target; returns once it watches.
    pub fn start(folder: &Path, target: &Path, more: &[&str]) -> Result<Self> {
        let mut command = command("record")?;
        command
            .args(["--history", "-o"])
            .arg(folder)
            .args([OsStr::new("--target"), target.as_os_str()])
            .args(more);
        let running = Running::start(&mut command)?;
        running.wait_for("watching")?;
        harness::settle()?;
        Ok(Self { running })
    }

    /// Ends it with SIGTERM, as a service manager does.
    pub fn finish(self) -> Result<Finished> {
        self.running.signal(Signal::TERM)?;
        let status = self.running.wait()?;
        self.running.finished(status)
    }

    /// Kills it: like a power failure.
    pub fn kill(self) -> Result<()> {
        self.running.signal(Signal::KILL)?;
        self.running.wait()?;
        Ok(())
    }
}

/// Numbers of opens generated, recorded, and counted as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Events that happened.
    pub generated: u64,
    /// Of those, in the capture.
    pub recorded: u64,
    /// Counted as lost by the kernel programs.
    pub lost_in_ring: u64,
    /// Counted as not written to the disk.
    pub not_written: u64,
}

impl Balance {
    /// Makes the balance of a process's opens in a capture of one run. At the tracepoint tier an open is one event; at
    /// the others its close is another.
    #[must_use]
    pub fn of(capture: &Capture, pid: u32, opens: u64) -> Self {
        let closes = capture.tier() != "tracepoint";
        let closed = if closes { capture.closes } else { 0 };
        Self {
            generated: opens * (1 + u64::from(closes)),
            recorded: capture.opened_by(pid) + closed,
            lost_in_ring: capture.lost("open: event ring full")
                + capture.lost("open: file not readable")
                + skipped(capture),
            not_written: capture.lost("capture: opened") + capture.lost("capture: closed"),
        }
    }

    /// Asserts that the counted losses are exactly the missing events.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.generated == self.recorded + self.lost_in_ring + self.not_written,
            "{self:?}: {} are missing",
            i128::from(self.generated) - i128::from(self.recorded + self.lost_in_ring + self.not_written)
        );
        Ok(())
    }
}

/// Runs of programs that the kernel skipped.
fn skipped(capture: &Capture) -> u64 {
    let last = capture.of("lost").last();
    let losses = last.and_then(|lost| lost["losses"].as_object());
    losses.map_or(0, |losses| {
        losses
            .iter()
            .filter(|(what, _)| what.ends_with("skipped by the kernel"))
            .filter_map(|(_, count)| count.as_u64())
            .sum()
    })
}
