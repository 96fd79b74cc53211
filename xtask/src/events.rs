//! Reads the events of `libtest-mimic --format json`, and the lines that tests print among them. No input or output
//! here.
//!
//! Tests print uncaptured: a line that is no event belongs to the test that has started and not ended. If a suite runs
//! several tests at a time, the harness says `started` only when a test has ended, so the owner of a line is unknown.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::results::{End, Measured, Results, Test};

/// A test that cannot run on a machine says so in a line that has this, its name, `: ` and the reason, and passes.
const SKIPPED: &str = "skipped: ";

/// A line of a measurement: this, the object, the tool, and the result, with `: ` between.
const MEASURED: &str = "measured: ";

/// A slow test says how long it took: this, its name, `: ` and the seconds.
const TOOK: &str = "took: ";

/// The begin of an event. Output without a line end may stand before it.
const EVENT: &str = r#"{ "type": ""#;

/// Lines of a test's output that are kept.
const KEPT: usize = 400;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event {
    Suite {
        event: State,
    },
    Test {
        name: String,
        event: State,
        /// The message of a failure.
        stdout: Option<String>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Started,
    Ok,
    Failed,
    Ignored,
}

/// The result of a run of a suite.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) results: Results,
    /// The reason if the run did not finish, with the end of its output: it crashed, or its machine did.
    pub(crate) broke: Option<(String, String)>,
}

/// Reads the output of one test executable.
#[derive(Debug)]
pub(crate) struct Reader {
    suite: String,
    results: Results,
    /// The running test and its start time.
    running: Option<(String, Instant)>,
    output: VecDeque<String>,
    skips: BTreeMap<String, String>,
    times: BTreeMap<String, Duration>,
    ended: bool,
}

impl Reader {
    /// For the output of the suite with this name in the results.
    pub(crate) fn new(suite: impl Into<String>) -> Self {
        Self {
            suite: suite.into(),
            results: Results::default(),
            running: None,
            output: VecDeque::new(),
            skips: BTreeMap::new(),
            times: BTreeMap::new(),
            ended: false,
        }
    }

    /// Takes a line that has just come, and returns the part to show.
    pub(crate) fn line(&mut self, line: &str, now: Instant) -> Option<String> {
        let line = line.trim_end();
        let found = line.find(EVENT).and_then(|at| {
            let event = serde_json::from_str(&line[at..]).ok()?;
            Some((&line[..at], event))
        });
        let Some((before, event)) = found else {
            self.printed(line);
            // The events say this better.
            let shown = !line.is_empty() && !line.starts_with(TOOK) && !line.starts_with(SKIPPED);
            return shown.then(|| line.to_owned());
        };
        if !before.is_empty() {
            self.printed(before);
        }
        let ended = self.event(event, now)?;
        Some(if before.is_empty() {
            ended
        } else {
            format!("{before}\n{ended}")
        })
    }

    fn event(&mut self, event: Event, now: Instant) -> Option<String> {
        match event {
            Event::Suite {
                event: State::Started,
            } => None,
            Event::Suite { .. } => {
                self.ended = true;
                None
            }
            Event::Test {
                name,
                event: State::Started,
                ..
            } => {
                self.running = Some((name, now));
                None
            }
            Event::Test { name, event, stdout } => {
                let end = match (event, self.skips.remove(&name)) {
                    (State::Failed, _) => End::Failed(stdout.as_deref().map_or("", message).to_owned()),
                    (_, Some(reason)) => End::Skipped(reason),
                    (State::Ignored, None) => End::Skipped("ignored".to_owned()),
                    (State::Ok | State::Started, None) => End::Passed,
                };
                let since = self.running.take().map_or(now, |(_, since)| since);
                let time = self.times.remove(&name);
                Some(self.ended(name, end, time.unwrap_or_else(|| now - since)))
            }
        }
    }

    fn ended(&mut self, name: String, end: End, time: Duration) -> String {
        let seconds = time.as_secs_f64();
        let shown = match &end {
            End::Passed | End::Flaky(_) => format!("ok       {name} ({seconds:.1} s)"),
            End::Failed(why) => format!("FAILED   {name} ({seconds:.1} s): {why}"),
            End::Skipped(why) => format!("skipped  {name}: {why}"),
        };
        let output = self.output.drain(..).collect::<Vec<_>>().join("\n");
        self.results.tests.push(Test {
            suite: self.suite.clone(),
            name,
            end,
            time,
            output,
        });
        shown
    }

    fn printed(&mut self, line: &str) {
        if let Some(skip) = line.strip_prefix(SKIPPED) {
            let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
            self.skips.insert(name.to_owned(), reason.to_owned());
        } else if let Some(measured) = line.strip_prefix(MEASURED)
            && let [what, by, result] = measured.splitn(3, ": ").collect::<Vec<_>>()[..]
        {
            self.results.measured.push(Measured {
                what: what.to_owned(),
                by: by.to_owned(),
                result: result.to_owned(),
            });
        } else if let Some((name, seconds)) = line.strip_prefix(TOOK).and_then(|took| took.rsplit_once(": "))
            && let Some(time) = seconds
                .parse()
                .ok()
                .and_then(|s| Duration::try_from_secs_f64(s).ok())
        {
            self.times.insert(name.to_owned(), time);
        } else {
            if self.output.len() == KEPT {
                self.output.pop_front();
            }
            self.output.push_back(line.to_owned());
        }
    }

    /// The results, given how the process ended: `Err` with the reason if it did not succeed.
    pub(crate) fn finish(mut self, end: Result<(), String>, now: Instant) -> Outcome {
        let failed = self.results.tests.iter().any(Test::has_failed);
        let why = match end {
            Err(_) if self.ended && failed => None,
            Ok(()) if self.ended => None,
            Err(reason) => Some(reason),
            Ok(()) => Some("ended before its tests".to_owned()),
        };
        let broke = why.map(|why| {
            // The last words of a program are usually the reason for its end.
            let why = match self.output.iter().rfind(|line| !line.trim().is_empty()) {
                Some(last) => format!("{why}: {last}"),
                None => why,
            };
            let output = self.output.iter().cloned().collect::<Vec<_>>().join("\n");
            if let Some((name, since)) = self.running.take() {
                self.ended(name.clone(), End::Failed(why.clone()), now - since);
                (format!("{why}, in {name}"), output)
            } else {
                (why, output)
            }
        });
        Outcome {
            results: self.results,
            broke,
        }
    }
}

/// The harness puts the message of a failure into `Error: "..."`.
fn message(stdout: &str) -> &str {
    let inner = stdout.trim_end().strip_prefix("Error: \"");
    inner.and_then(|text| text.strip_suffix('"')).unwrap_or(stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, end: Result<(), String>) -> (Outcome, Vec<String>) {
        let mut reader = Reader::new("host: kinds");
        let start = Instant::now();
        let shown = (0..)
            .zip(text.lines())
            .filter_map(|(second, line)| reader.line(line, start + Duration::from_secs(second)))
            .collect();
        let outcome = reader.finish(end, start + Duration::from_secs(100));
        (outcome, shown)
    }

    const HEAD: &str = r#"{ "type": "suite", "event": "started", "test_count": 3 }"#;
    const FOOT: &str = r#"{ "type": "suite", "event": "ok", "passed": 1, "failed": 0, "ignored": 0, "measured": 0, "filtered_out": 0, "exec_time": 0.1 }"#;

    #[test]
    fn ends_times_and_output_of_tests() {
        let text = format!(
            r#"{HEAD}
{{ "type": "test", "event": "started", "name": "fd" }}
mounting
no end of this line{{ "type": "test", "name": "fd", "event": "ok" }}
{{ "type": "test", "event": "started", "name": "cwd" }}
{{ "type": "test", "name": "cwd", "event": "failed", "stdout": "Error: \"it \u0022holds\u0022\"\n" }}
{{ "type": "test", "event": "started", "name": "loop" }}

skipped: loop: no overlay: not supported
{{ "type": "test", "name": "loop", "event": "ok" }}
{FOOT}"#
        );
        let (outcome, shown) = read(&text, Err("exit status: 101".to_owned()));
        assert_eq!(outcome.broke, None);
        let tests = outcome.results.tests;
        assert_eq!(tests[0].end, End::Passed);
        assert_eq!(tests[0].output, "mounting\nno end of this line");
        assert_eq!(tests[0].time, Duration::from_secs(2));
        assert_eq!(tests[1].end, End::Failed("it \"holds\"".to_owned()));
        assert_eq!(tests[2].end, End::Skipped("no overlay: not supported".to_owned()));
        assert_eq!(shown[1], "no end of this line\nok       fd (2.0 s)");
    }

    #[test]
    fn several_at_a_time_say_how_long_they_took() {
        let text = format!(
            r#"{HEAD}
took: a::b: 2.5
{{ "type": "test", "event": "started", "name": "a::b" }}
{{ "type": "test", "name": "a::b", "event": "ok" }}
measured: fd::tmpfs: fuser -m: found
{FOOT}"#
        );
        let (outcome, _) = read(&text, Ok(()));
        assert_eq!(outcome.results.tests[0].time, Duration::from_millis(2500));
        assert_eq!(outcome.results.measured[0].by, "fuser -m");
    }

    #[test]
    fn what_ends_without_a_result_broke_down() {
        let text =
            format!("{HEAD}\n{{ \"type\": \"test\", \"event\": \"started\", \"name\": \"fd\" }}\nhalf");
        let (outcome, _) = read(&text, Err("signal: 11".to_owned()));
        assert_eq!(
            outcome.broke,
            Some(("signal: 11: half, in fd".to_owned(), "half".to_owned()))
        );
        assert_eq!(
            outcome.results.tests[0].end,
            End::Failed("signal: 11: half".to_owned())
        );
        assert!(
            read("cannot start", Err("exit status: 1".to_owned()))
                .0
                .broke
                .is_some()
        );
        assert!(read("", Ok(())).0.broke.is_some());
        // Every test passed, but the process failed.
        assert!(read(FOOT, Err("signal: 6".to_owned())).0.broke.is_some());
        assert!(read(&format!("{HEAD}\n{FOOT}"), Ok(())).0.broke.is_none());
    }

    #[test]
    fn what_looks_like_an_event_is_output() {
        let (outcome, shown) = read(r#"{ "type": "incident" }"#, Ok(()));
        assert_eq!(shown.len(), 1);
        assert!(outcome.results.tests.is_empty());
    }
}
