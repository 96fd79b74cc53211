//! Derives from the two serial lines of a virtual machine how its run ended. No input or output here.

use std::{collections::VecDeque, fmt, time::Duration};

use super::protocol::{BEGIN, ERROR, EXIT, MARK, READY, SIGNAL};

/// Lines of the console that are kept for the report of a failure.
const TAIL: usize = 60;

/// Messages of a kernel that cannot continue. With `oops=panic` each of them ends the machine.
const TROUBLE: [&str; 9] = [
    "Kernel panic - not syncing",
    "Oops: ",
    "BUG: unable to handle",
    "BUG: kernel NULL pointer",
    "kernel BUG at",
    "general protection fault",
    "Unable to mount root fs",
    "int3: 0000",
    "invalid opcode: 0000",
];

/// The verdict on a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The program ended with this status.
    Exited(i32),
    /// This signal ended the program.
    Signaled(i32),
    /// The kernel gave up, with this line.
    Panicked(String),
    /// The machine was ended from outside.
    TimedOut(Duration),
    /// The machine could not be made ready, or ended without a verdict.
    Failed(String),
}

impl Outcome {
    /// The status that `cargo xtask vm` ends with: the program's own where it has one.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Exited(code) => u8::try_from(*code).unwrap_or(255),
            Self::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Self::Panicked(_) | Self::Failed(_) => 125,
            Self::TimedOut(_) => 124,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the program ended with status {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal} ended the program"),
            Self::Panicked(line) => write!(f, "the kernel gave up: {line}"),
            Self::TimedOut(limit) => write!(f, "no end after {} s", limit.as_secs()),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// The state by the lines so far.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    release: Option<String>,
    began: bool,
    verdict: Option<Outcome>,
    trouble: Option<String>,
    tail: VecDeque<String>,
}

impl Watch {
    /// For a machine that continues from its saved state.
    pub(crate) fn ready(release: &str) -> Self {
        Self {
            release: Some(release.to_owned()),
            ..Self::default()
        }
    }

    /// There is a verdict.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome().is_some()
    }

    /// The machine waits for a job.
    pub(crate) fn is_ready(&self) -> bool {
        self.release.is_some()
    }

    /// The program has been started.
    pub(crate) fn began(&self) -> bool {
        self.began
    }

    /// The release of the kernel, once the machine is ready.
    pub(crate) fn release(&self) -> Option<&str> {
        self.release.as_deref()
    }

    /// The verdict, once the lines show it. The program's own verdict goes before a late panic.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.verdict
            .clone()
            .or_else(|| self.trouble.clone().map(Outcome::Panicked))
    }

    /// The last lines of the console.
    pub(crate) fn console_tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// Takes a line of the result port; returns the program's part of it.
    pub(crate) fn result_line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let line = line.trim_end_matches('\r');
        // The program's last line may have no line end: so the mark may be inside a line.
        let Some(at) = line.find(MARK) else {
            return Some(line);
        };
        let said = &line[at + MARK.len()..];
        if let Some(release) = said.strip_prefix(READY) {
            self.release = Some(release.to_owned());
        } else if said == BEGIN {
            self.began = true;
        } else if let Some(code) = said.strip_prefix(EXIT).and_then(|code| code.parse().ok()) {
            self.verdict = Some(Outcome::Exited(code));
        } else if let Some(signal) = said.strip_prefix(SIGNAL).and_then(|signal| signal.parse().ok()) {
            self.verdict = Some(Outcome::Signaled(signal));
        } else if let Some(reason) = said.strip_prefix(ERROR) {
            self.verdict = Some(Outcome::Failed(format!(
                "the init of the machine failed: {reason}"
            )));
        } else {
            return Some(line);
        }
        (at > 0).then(|| &line[..at])
    }

    /// A line of the console.
    pub(crate) fn console_line(&mut self, line: &str) {
        let line = line.trim_end_matches('\r');
        if self.trouble.is_none() && TROUBLE.iter().any(|trouble| line.contains(trouble)) {
            self.trouble = Some(line.to_owned());
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_from_begin_to_exit() {
        let mut watch = Watch::default();
        assert!(!watch.is_ready());
        assert_eq!(watch.result_line("ebusy-vm: ready 6.1.0-54-cloud-amd64\r"), None);
        assert!(watch.is_ready() && !watch.began());
        assert_eq!(watch.result_line("ebusy-vm: begin\r"), None);
        assert!(watch.began());
        assert_eq!(watch.release(), Some("6.1.0-54-cloud-amd64"));
        assert_eq!(watch.result_line("hello\r"), Some("hello"));
        assert_eq!(watch.outcome(), None);
        assert_eq!(
            watch.result_line("no line endebusy-vm: exit 3"),
            Some("no line end")
        );
        assert_eq!(watch.outcome(), Some(Outcome::Exited(3)));
        assert_eq!(watch.outcome().unwrap().status(), 3);
    }

    #[test]
    fn a_signal_and_an_error_of_the_init() {
        let mut watch = Watch::default();
        assert_eq!(watch.result_line("ebusy-vm: signal 9"), None);
        assert_eq!(watch.outcome().unwrap().status(), 137);
        let mut watch = Watch::default();
        watch.result_line("ebusy-vm: error loading the module overlay");
        assert!(matches!(watch.outcome(), Some(Outcome::Failed(reason)) if reason.contains("overlay")));
    }

    #[test]
    fn a_mark_that_says_nothing_known_is_output() {
        let mut watch = Watch::default();
        assert_eq!(
            watch.result_line("ebusy-vm: exit soon"),
            Some("ebusy-vm: exit soon")
        );
        assert_eq!(watch.outcome(), None);
    }

    #[test]
    fn the_first_line_of_trouble_is_kept() {
        let mut watch = Watch::default();
        watch.console_line("[    0.1] Linux version");
        assert_eq!(watch.outcome(), None);
        watch.console_line("[    1.2] int3: 0000 [#1] PREEMPT SMP NOPTI\r");
        watch.console_line("[    1.3] Kernel panic - not syncing: Fatal exception");
        assert_eq!(
            watch.outcome(),
            Some(Outcome::Panicked(
                "[    1.2] int3: 0000 [#1] PREEMPT SMP NOPTI".to_owned()
            ))
        );
        assert!(!watch.began());
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut watch = Watch::default();
        for line in 0..200 {
            watch.console_line(&line.to_string());
        }
        let tail: Vec<_> = watch.console_tail().collect();
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.last(), Some(&"199"));
    }
}
