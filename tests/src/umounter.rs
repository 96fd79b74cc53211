//! The test's side of `umounter` ([`holders`](crate::holders)): another process tries to unmount a path.

use std::ffi::OsStr;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    harness,
    holder::{Helper, program},
};

/// Its final report.
#[derive(Debug, Serialize, Deserialize)]
pub struct Umounter {
    /// Its process id.
    pub pid: u32,
    /// Attempts that were refused.
    pub refused: u64,
    /// One attempt succeeded.
    pub unmounted: bool,
    /// The error of one that failed otherwise.
    pub error: Option<i32>,
}

impl Umounter {
    /// Runs it: options, the path, the maximum of attempts, a pause between them in milliseconds, flags.
    pub fn run(
        options: &[&OsStr],
        path: impl AsRef<OsStr>,
        (attempts, pause): (u64, u64),
        flags: &[&str],
    ) -> Result<Self> {
        Self::run_until(options, path, (attempts, pause), flags, || Ok(()))
    }

    /// Runs it once; it ends when every watching ebusy has looked at its result.
    pub fn run_watched(options: &[&OsStr], path: impl AsRef<OsStr>, flags: &[&str]) -> Result<Self> {
        Self::run_until(
            options,
            path,
            (1, 0),
            &[flags, &["stay"]].concat(),
            harness::settle,
        )
    }

    fn run_until(
        options: &[&OsStr],
        path: impl AsRef<OsStr>,
        (attempts, pause): (u64, u64),
        flags: &[&str],
        before_its_end: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let numbers = [attempts.to_string(), pause.to_string()];
        let mut arguments = options.to_vec();
        arguments.push(path.as_ref());
        arguments.extend(numbers.iter().map(AsRef::<OsStr>::as_ref));
        arguments.extend(flags.iter().map(AsRef::<OsStr>::as_ref));
        let helper = Helper::start(&program("umounter")?, &arguments)?;
        let line = helper.line()?;
        before_its_end()?;
        helper.finish()?;
        serde_json::from_str(&line).context(line)
    }

    /// Asserts that it made this many attempts, and all were refused.
    pub fn expect_refused(self, attempts: u64) -> Result<Self> {
        ensure!(self.refused == attempts && !self.unmounted, "{self:?}");
        Ok(self)
    }
}
