//! Unit tests, by the harness of the standard library. Its JSON is unstable, so this reads its lines, and as few as
//! possible.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    follow::follow,
    results::{End, Results, Test},
    toolchain,
    workspace::Artifact,
};

const LIMIT: Duration = Duration::from_mins(10);

/// An executable with unit tests.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    suite: String,
    package: PathBuf,
    program: PathBuf,
}

/// Makes it from an executable that cargo has built.
pub(crate) fn of(artifact: Artifact) -> Unit {
    Unit {
        suite: format!("unit: {}", artifact.name),
        package: artifact.package,
        program: artifact.path,
    }
}

impl Unit {
    /// Runs it as cargo would.
    pub(crate) fn run(&self, filter: Option<&str>) -> Result<Results> {
        let mut command = toolchain::bare(&self.program);
        command
            .args(filter)
            .env("CARGO_MANIFEST_DIR", &self.package)
            .current_dir(&self.package);
        let mut reader = Reader::default();
        let start = Instant::now();
        let end = follow(command, LIMIT, &mut |line| {
            // Hundreds that pass are no news.
            if !reader.line(line) {
                println!("{line}");
            }
        })?;
        Ok(reader.finish(&self.suite, end, start.elapsed()))
    }
}

#[derive(Debug, Default)]
struct Reader {
    tests: Vec<(String, End)>,
    ended: bool,
    other: Vec<String>,
}

impl Reader {
    /// True for the line of a passed test.
    fn line(&mut self, line: &str) -> bool {
        let test = line.strip_prefix("test ");
        if let Some((name, end)) = test.and_then(|test| test.split_once(" ... ")) {
            let end = match end {
                "ok" => End::Passed,
                "FAILED" => End::Failed(String::new()),
                other => End::Skipped(other.to_owned()),
            };
            // `name - should panic`
            let name = name.split(" - ").next().unwrap_or(name);
            self.tests.push((name.to_owned(), end));
        } else {
            self.ended |= line.starts_with("test result: ");
            self.other.push(line.to_owned());
        }
        matches!(self.tests.last(), Some((_, End::Passed))) && test.is_some()
    }

    /// Output that belongs to no single test: the harness prints it at the end.
    fn finish(self, suite: &str, end: Result<(), String>, time: Duration) -> Results {
        let has_failed = self.tests.iter().any(|(_, end)| matches!(end, End::Failed(_)));
        let output = self.other.join("\n");
        let each = time / u32::try_from(self.tests.len().max(1)).unwrap_or(1);
        let mut tests: Vec<Test> = self
            .tests
            .into_iter()
            .map(|(name, end)| Test {
                name,
                output: if matches!(end, End::Failed(_)) {
                    output.clone()
                } else {
                    String::new()
                },
                end,
                time: each,
                ..Test::failed(suite, "")
            })
            .collect();
        let why = match end {
            Err(reason) if !(self.ended && has_failed) => Some(reason),
            Ok(()) if !self.ended => Some("ended without a result".to_owned()),
            _ => None,
        };
        tests.extend(why.map(|why| Test {
            output,
            ..Test::failed(suite, why)
        }));
        Results {
            tests,
            measured: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, end: Result<(), String>) -> Results {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish("unit: tracer", end, Duration::from_secs(1))
    }

    #[test]
    fn names_and_ends() {
        let text = "\nrunning 3 tests\ntest a ... ok\ntest b ... ignored, slow\ntest c ... FAILED\n\nfailures:\n\n\
                    ---- c stdout ----\nno\n\n\ntest result: FAILED. 1 passed; 1 failed; 1 ignored\n";
        let results = read(text, Err("exit status: 101".to_owned()));
        assert_eq!(results.summary(), "1 passed, 1 failed, 1 skipped");
        assert!(results.tests[2].output.contains("---- c stdout ----\nno"));
    }

    #[test]
    fn a_crash_is_a_failure() {
        let results = read("running 2 tests\ntest a ... ok\n", Err("signal: 6".to_owned()));
        assert_eq!(results.summary(), "1 passed, 1 failed, 0 skipped");
        assert_eq!(read("", Ok(())).summary(), "0 passed, 1 failed, 0 skipped");
        let none = read("running 0 tests\n\ntest result: ok. 0 passed\n", Ok(()));
        assert_eq!(none.summary(), "0 passed, 0 failed, 0 skipped");
    }
}
