//! The results of tests: one row a test, and their sums. No input or output here.

use std::time::Duration;

use crate::flaky;

/// The result of a test.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Passed,
    /// Failed, and passed when it ran once more: the reason of the failure.
    Flaky(String),
    /// The reason.
    Failed(String),
    /// The reason why it cannot run here.
    Skipped(String),
}

/// A test that ran, or something larger that could not: a whole suite, or a kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Test {
    /// `host: kinds`, `6.1 fentry: kinds`.
    pub(crate) suite: String,
    /// Empty for the whole suite.
    pub(crate) name: String,
    pub(crate) end: End,
    pub(crate) time: Duration,
    /// The end of what it printed.
    pub(crate) output: String,
}

impl Test {
    /// A whole suite that cannot run here.
    pub(crate) fn skipped(suite: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::whole(suite, End::Skipped(reason.into()))
    }

    /// A whole suite that failed.
    pub(crate) fn failed(suite: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::whole(suite, End::Failed(reason.into()))
    }

    fn whole(suite: impl Into<String>, end: End) -> Self {
        Self {
            suite: suite.into(),
            name: String::new(),
            end,
            time: Duration::ZERO,
            output: String::new(),
        }
    }

    /// Suite and name.
    pub(crate) fn full_name(&self) -> String {
        if self.name.is_empty() {
            self.suite.clone()
        } else {
            format!("{}: {}", self.suite, self.name)
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.end, End::Failed(_))
    }

    pub(crate) fn is_flaky(&self) -> bool {
        matches!(self.end, End::Flaky(_))
    }

    fn was_skipped(&self) -> bool {
        matches!(self.end, End::Skipped(_))
    }
}

/// A measurement that a test printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) by: String,
    pub(crate) result: String,
}

/// The sum of all results.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Results {
    pub(crate) tests: Vec<Test>,
    pub(crate) measured: Vec<Measured>,
}

impl Results {
    /// One test.
    pub(crate) fn of(test: Test) -> Self {
        Self {
            tests: vec![test],
            ..Self::default()
        }
    }

    /// Adds another sum.
    pub(crate) fn add(&mut self, other: Self) {
        self.tests.extend(other.tests);
        self.measured.extend(other.measured);
    }

    fn count(&self, what: impl Fn(&Test) -> bool) -> usize {
        self.tests.iter().filter(|test| what(test)).count()
    }

    /// Tests that failed, and passed when they ran once more.
    pub(crate) fn flaky(&self) -> usize {
        self.count(Test::is_flaky)
    }

    /// The whole run has failed: by a test, or by too many flaky ones.
    pub(crate) fn have_failed(&self) -> bool {
        self.tests.iter().any(Test::has_failed) || self.flaky() > flaky::BUDGET
    }

    /// The last line of a run. Flaky tests have passed in the end.
    pub(crate) fn summary(&self) -> String {
        let failed = self.count(Test::has_failed);
        let skipped = self.count(Test::was_skipped);
        let passed = self.tests.len() - failed - skipped;
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// The slowest tests, the slowest first.
    pub(crate) fn slowest(&self, count: usize) -> Vec<&Test> {
        let mut tests: Vec<&Test> = self.tests.iter().filter(|test| !test.time.is_zero()).collect();
        tests.sort_by_key(|test| std::cmp::Reverse(test.time));
        tests.truncate(count);
        tests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, end: End, seconds: u64) -> Test {
        Test {
            name: name.to_owned(),
            time: Duration::from_secs(seconds),
            ..Test::whole("host: kinds", end)
        }
    }

    #[test]
    fn the_sum_counts_each_test_once() {
        let results = Results {
            tests: vec![
                test("a", End::Passed, 1),
                test("b", End::Flaky("once".to_owned()), 3),
                test("c", End::Failed("no".to_owned()), 2),
                Test::skipped("kernel 6.1", "no emulator"),
            ],
            measured: Vec::new(),
        };
        assert_eq!(results.summary(), "2 passed, 1 failed, 1 skipped");
        let slowest: Vec<&str> = results.slowest(2).iter().map(|test| test.name.as_str()).collect();
        assert_eq!(slowest, ["b", "c"]);
        assert!(results.have_failed());
    }

    #[test]
    fn too_many_flaky_tests_fail_a_run() {
        let flaky = |count| Results {
            tests: vec![test("a", End::Flaky(String::new()), 0); count],
            measured: Vec::new(),
        };
        assert!(!flaky(flaky::BUDGET).have_failed());
        assert!(flaky(flaky::BUDGET + 1).have_failed());
    }
}
