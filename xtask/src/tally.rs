//! Counts what the output of Rust's test harness says. No input or output here.

use std::collections::BTreeMap;

/// A test that cannot run on a machine says so in a line that has this, its name, `: ` and the reason, and returns.
pub(crate) const SKIPPED: &str = "skipped: ";

/// A line of a measurement: this, what was measured, by what, and the result, with `: ` between.
pub(crate) const MEASURED: &str = "measured: ";

/// How a test ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Passed,
    Failed,
    /// The reason.
    Skipped(String),
}

/// The sum of what ran.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Names of what failed.
    pub(crate) failed: Vec<String>,
    /// Names of what failed at first, and not when it ran once more; tests are among the passed.
    pub(crate) unsteady: Vec<String>,
    /// Names and reasons.
    pub(crate) skipped: Vec<(String, String)>,
    /// Every test that has a name: suite, name, end.
    pub(crate) tests: Vec<(String, String, End)>,
    /// What was measured, by what, and the result.
    pub(crate) measured: Vec<(String, String, String)>,
}

impl Tally {
    /// One more that could not run.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push((name.into(), reason.into()));
    }

    /// Suite and name of the tests among `failed`: fewer than those where a run broke down.
    pub(crate) fn failed_tests(&self) -> Vec<(String, String)> {
        let tests = self
            .tests
            .iter()
            .map(|(suite, name, _)| (suite.clone(), name.clone()));
        tests
            .filter(|(suite, name)| self.failed.contains(&format!("{suite}: {name}")))
            .collect()
    }

    /// One that had failed passed when it ran alone.
    pub(crate) fn passed_alone(&mut self, suite: &str, name: &str) {
        let full = format!("{suite}: {name}");
        self.failed.retain(|failed| *failed != full);
        for (of, test, end) in &mut self.tests {
            if of == suite && test == name {
                *end = End::Passed;
            }
        }
        self.passed += 1;
        self.unsteady.push(full);
    }

    /// Adds another sum.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.unsteady.extend(other.unsteady);
        self.skipped.extend(other.skipped);
        self.tests.extend(other.tests);
        self.measured.extend(other.measured);
    }

    /// The last line of a run.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// Reads the output of one or more test executables.
#[derive(Debug)]
pub(crate) struct Reader {
    suite: String,
    tally: Tally,
    started: usize,
    finished: usize,
    names: Vec<String>,
    seen: Vec<String>,
    skips: BTreeMap<String, String>,
    in_failures: bool,
}

impl Reader {
    /// For the output of what is called so in the sum.
    pub(crate) fn new(suite: impl Into<String>) -> Self {
        Self {
            suite: suite.into(),
            tally: Tally::default(),
            started: 0,
            finished: 0,
            names: Vec::new(),
            seen: Vec::new(),
            skips: BTreeMap::new(),
            in_failures: false,
        }
    }

    /// One line.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        // Uncaptured, a test's first line follows its name.
        let said = match line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            Some((name, rest)) => {
                self.seen.push(name.trim_end().to_owned());
                if let Some(reason) = rest.strip_prefix("ignored") {
                    let reason = reason.trim_start_matches([',', ' ']);
                    let reason = if reason.is_empty() { "ignored" } else { reason };
                    self.skips
                        .entry(name.trim_end().to_owned())
                        .or_insert_with(|| reason.to_owned());
                }
                rest
            }
            None => line,
        };
        if let Some(measured) = said.strip_prefix(MEASURED) {
            if let [what, by, result] = measured.splitn(3, ": ").collect::<Vec<_>>()[..] {
                let row = (what.to_owned(), by.to_owned(), result.to_owned());
                self.tally.measured.push(row);
            }
        } else if let Some(skip) = said.strip_prefix(SKIPPED) {
            let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
            self.skips.insert(name.to_owned(), reason.to_owned());
        } else if is_start(said) {
            self.started += 1;
        } else if said == "failures:" {
            // The harness says it twice: before the outputs and before the names. The names come last.
            self.names.clear();
            self.in_failures = true;
        } else if let Some(result) = said.strip_prefix("test result: ") {
            self.result(result);
        } else if self.in_failures
            && let Some(name) = line.strip_prefix("    ")
        {
            self.names.push(name.to_owned());
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn result(&mut self, result: &str) {
        let number = |what: &str| -> usize {
            let numbers = result
                .split([';', '.'])
                .filter_map(|part| part.trim().split_once(' '));
            numbers
                .into_iter()
                .find(|(_, kind)| *kind == what)
                .and_then(|(number, _)| number.parse().ok())
                .unwrap_or(0)
        };
        self.names
            .resize(number("failed"), "a test without a name".to_owned());
        for name in self.seen.drain(..) {
            let end = match self.skips.get(&name) {
                _ if self.names.contains(&name) => End::Failed,
                Some(reason) => End::Skipped(reason.clone()),
                None => End::Passed,
            };
            self.tally.tests.push((self.suite.clone(), name, end));
        }
        for name in self.names.drain(..) {
            self.tally.failed.push(format!("{}: {name}", self.suite));
        }
        // Rust's own harness counts a test that says it is skipped as passed, others count it as ignored.
        let (passed, ignored): (usize, usize) = (number("passed"), number("ignored"));
        let unsaid = ignored.saturating_sub(self.skips.len());
        self.tally.passed += passed.saturating_sub(self.skips.len().saturating_sub(ignored));
        for (name, reason) in std::mem::take(&mut self.skips) {
            self.tally.skip(format!("{}: {name}", self.suite), reason);
        }
        for _ in 0..unsaid {
            self.tally
                .skip(format!("{}: a test without a name", self.suite), "ignored");
        }
        self.finished += 1;
        self.in_failures = false;
    }

    /// The sum, given how the run ended: `Err` with the reason if it did not succeed.
    pub(crate) fn finish(mut self, end: Result<(), String>) -> Tally {
        for (name, reason) in self.skips {
            self.tally.skip(format!("{}: {name}", self.suite), reason);
        }
        let suite = &self.suite;
        // Nobody knows how those ended that the harness did not get to sum up.
        for name in self.seen {
            self.tally.tests.push((suite.clone(), name, End::Failed));
        }
        match end {
            // One that ended without its result (a signal, an abort) has failed, whatever the others say.
            Err(reason) if self.started > self.finished => {
                for _ in self.finished..self.started {
                    self.tally
                        .failed
                        .push(format!("{suite}: ended without a result: {reason}"));
                }
            }
            Err(reason) if self.tally.failed.is_empty() => {
                self.tally.failed.push(format!("{suite}: did not run: {reason}"));
            }
            Ok(()) if self.started > self.finished || self.started == 0 => {
                self.tally.failed.push(format!("{suite}: ended without a result"));
            }
            _ => {}
        }
        self.tally
    }
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    let mut words = line.split(' ');
    words.next() == Some("running")
        && words.next().is_some_and(|number| number.parse::<usize>().is_ok())
        && matches!(words.next(), Some("test" | "tests"))
        && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, end: Result<(), String>) -> Tally {
        let mut reader = Reader::new("host");
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish(end)
    }

    #[test]
    fn passed_ignored_and_skipped() {
        let tally = read(
            "\nrunning 4 tests\ntest a ... ok\ntest b ... ignored, needs root and BPF\n\
             test kinds::fd ... skipped: kinds::fd: the kernel refuses tracing programs\nok\n\
             test kinds::cwd ... some output\nskipped: kinds::cwd: no overlay: not supported\nok\n\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            Ok(()),
        );
        assert_eq!(tally.passed, 1);
        assert!(tally.failed.is_empty());
        let skipped: Vec<_> = tally
            .skipped
            .iter()
            .map(|(name, reason)| (name.as_str(), reason.as_str()))
            .collect();
        assert_eq!(
            skipped,
            [
                ("host: b", "needs root and BPF"),
                ("host: kinds::cwd", "no overlay: not supported"),
                ("host: kinds::fd", "the kernel refuses tracing programs"),
            ]
        );
        assert_eq!(tally.summary(), "1 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn skipped_where_the_harness_counts_it_as_ignored() {
        let tally = read(
            "\nrunning 3 tests\ntest fd::tmpfs   ... \nskipped: fd::tmpfs: not root\nignored\n\
             test fd::overlay ... ok\ntest cwd         ... ignored\n\n\
             test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            Ok(()),
        );
        assert_eq!(tally.passed, 1);
        let names: Vec<_> = tally
            .skipped
            .iter()
            .map(|(name, reason)| format!("{name} ({reason})"))
            .collect();
        assert_eq!(names, ["host: cwd (ignored)", "host: fd::tmpfs (not root)"]);
    }

    #[test]
    fn failed_names_of_several_executables() {
        let tally = read(
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\n    not a name\n\n\
             failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
             running 1 test\ntest c ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n",
            Err("exit status: 101".to_owned()),
        );
        assert_eq!(tally.passed, 2);
        assert_eq!(tally.failed, ["host: b"]);
        let ends: Vec<_> = tally
            .tests
            .iter()
            .map(|(_, name, end)| (name.as_str(), end))
            .collect();
        assert_eq!(
            ends,
            [("a", &End::Passed), ("b", &End::Failed), ("c", &End::Passed)]
        );
    }

    #[test]
    fn what_passes_alone_is_no_failure_and_is_told() {
        let mut tally = read(
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\nfailures:\n    b\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n",
            Err("exit status: 101".to_owned()),
        );
        assert_eq!(tally.failed, ["host: b"]);
        assert_eq!(tally.failed_tests(), [("host".to_owned(), "b".to_owned())]);
        tally.passed_alone("host", "b");
        assert_eq!(tally.summary(), "2 passed, 0 failed, 0 skipped");
        assert_eq!(tally.unsteady, ["host: b"]);
        assert!(tally.tests.iter().all(|(_, _, end)| *end == End::Passed));
    }

    #[test]
    fn measurements() {
        let tally = read(
            "running 1 test\ntest x ... measured: fd::tmpfs: fuser -m: found\nok\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored\n",
            Ok(()),
        );
        assert_eq!(
            tally.measured,
            [("fd::tmpfs".to_owned(), "fuser -m".to_owned(), "found".to_owned())]
        );
    }

    #[test]
    fn what_ends_without_a_result_has_failed() {
        let tally = read(
            "running 2 tests\ntest a ... ok\ntest b ... ",
            Err("signal: 11".to_owned()),
        );
        assert_eq!(tally.failed, ["host: ended without a result: signal: 11"]);
        assert!(tally.failed_tests().is_empty());
        assert_eq!(
            read("error: could not compile", Err("exit status: 101".to_owned()))
                .failed
                .len(),
            1
        );
        assert_eq!(read("", Ok(())).failed.len(), 1);
    }

    #[test]
    fn nothing_to_run_is_no_failure() {
        let tally = read(
            "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored\n",
            Ok(()),
        );
        assert_eq!(tally, Tally::default());
    }
}
