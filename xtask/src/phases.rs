//! Times of the parts of a run: recorded by all commands of one run of the checks, shown at its end.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;

/// The second since 1970 in which a run of several commands began (`.ci/run` sets it).
const SINCE: &str = "EBUSY_CI_SINCE";

/// A run that takes longer than this prints a warning box.
const LONG: Duration = Duration::from_mins(40);

/// A part of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Phase {
    name: String,
    seconds: f64,
    /// Part of another one, beside other parts: not in the sum.
    #[serde(default)]
    part: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Record {
    since: u64,
    phases: Vec<Phase>,
}

/// The phases of a run.
#[derive(Debug)]
pub(crate) struct Phases {
    path: PathBuf,
    record: Record,
    /// This command is one of several.
    is_part: bool,
}

impl Phases {
    /// Continues the run that this command is part of, or begins one.
    pub(crate) fn of_this_run(workspace: &Workspace) -> Self {
        let path = workspace.target.join("ci/phases.json");
        let since = env::var(SINCE).ok().and_then(|since| since.parse().ok());
        let record = match (since, Self::last(&path)) {
            (Some(since), Some(record)) if record.since == since => record,
            (since, _) => Record {
                since: since.unwrap_or_else(now),
                phases: Vec::new(),
            },
        };
        Self {
            path,
            record,
            is_part: since.is_some(),
        }
    }

    fn last(path: &PathBuf) -> Option<Record> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// Does something, and records how long it took.
    pub(crate) fn time<T>(&mut self, name: &str, what: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = what();
        self.add(name, start.elapsed());
        result
    }

    /// Adds this time to a phase.
    pub(crate) fn add(&mut self, name: &str, time: Duration) {
        self.more(name, time, false);
    }

    /// Adds parts of a phase, some of which ran at the same time.
    pub(crate) fn add_parts(&mut self, parts: &[(String, Duration)]) {
        for (name, time) in parts {
            self.more(name, *time, true);
        }
    }

    fn more(&mut self, name: &str, time: Duration, part: bool) {
        let seconds = time.as_secs_f64();
        match self.record.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.record.phases.push(Phase {
                name: name.to_owned(),
                seconds,
                part,
            }),
        }
    }

    /// Writes them for the next command of this run, and for later readers.
    pub(crate) fn save(&self) -> Result<()> {
        let parent = self.path.parent().context("a folder for the phases")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        let text = serde_json::to_string_pretty(&self.record)?;
        fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Writes them unless this command is the whole run, which would hide the times of a full one.
    pub(crate) fn save_if_part(&self) -> Result<()> {
        if self.is_part { self.save() } else { Ok(()) }
    }

    /// The table of the last run, if this command is not part of it, and that of this one.
    pub(crate) fn table_with_last(&self) -> String {
        let last = (!self.is_part).then(|| Self::last(&self.path)).flatten();
        let last = last.map_or_else(String::new, |record| {
            format!("the last run of the tests:\n{}\n", table(&record, Duration::ZERO))
        });
        format!("{last}{}", self.table())
    }

    /// The table, with a box if the run is too long.
    pub(crate) fn table(&self) -> String {
        table(
            &self.record,
            Duration::from_secs(now().saturating_sub(self.record.since)),
        )
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn table(record: &Record, whole: Duration) -> String {
    let in_turn = record.phases.iter().filter(|phase| !phase.part);
    let known: f64 = in_turn.map(|phase| phase.seconds).sum();
    let other = (whole.as_secs_f64() - known).max(0.0);
    let rows = record
        .phases
        .iter()
        .map(|phase| (phase.name.as_str(), phase.seconds, phase.part))
        .chain([("other", other, false), ("in all", known + other, false)]);
    let width = record
        .phases
        .iter()
        .map(|phase| phase.name.len())
        .max()
        .map_or(6, |width| width.max(6));
    let mut text = String::new();
    for (name, seconds, part) in rows {
        let seconds = seconds.round() as u64;
        let indent = if part { "  " } else { "" };
        let _ = writeln!(
            text,
            "{indent}{name:<width$}  {:>3}:{:02}",
            seconds / 60,
            seconds % 60
        );
    }
    if whole > LONG {
        let line = format!(
            "This run took {} minutes: it should take no more than {}.",
            whole.as_secs() / 60,
            LONG.as_secs() / 60
        );
        let bar = "*".repeat(line.len() + 4);
        let _ = writeln!(text, "{bar}\n* {line} *\n{bar}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let phase = |name: &str, seconds| Phase {
            name: name.to_owned(),
            seconds,
            part: false,
        };
        Record {
            since: 0,
            phases: vec![phase("lint: clippy", 75.4), phase("host: kinds", 5.0)],
        }
    }

    #[test]
    fn rows_and_what_is_in_none_of_them() {
        assert_eq!(
            table(&record(), Duration::from_secs(100)),
            "lint: clippy    1:15\nhost: kinds     0:05\nother           0:20\nin all          1:40\n"
        );
    }

    #[test]
    fn parts_are_not_counted_twice() {
        let mut phases = Phases {
            path: PathBuf::new(),
            record: record(),
            is_part: false,
        };
        phases.add_parts(&[("host: ways".to_owned(), Duration::from_mins(1))]);
        let text = table(&phases.record, Duration::from_secs(100));
        assert!(text.contains("\n  host: ways      1:00\n"), "{text}");
        assert!(text.ends_with("in all          1:40\n"), "{text}");
    }

    #[test]
    fn a_long_run_is_loud() {
        let text = table(&record(), Duration::from_mins(41));
        assert!(text.ends_with("****\n"), "{text}");
        assert!(text.contains("* This run took 41 minutes"), "{text}");
    }

    #[test]
    fn a_phase_in_parts_is_one_row() {
        let mut phases = Phases {
            path: PathBuf::new(),
            record: Record::default(),
            is_part: false,
        };
        phases.add("boots", Duration::from_secs(7));
        phases.add("boots", Duration::from_secs(8));
        assert_eq!(phases.record.phases.len(), 1);
    }
}
