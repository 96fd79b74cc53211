//! The results in the format that CI services read.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use crate::results::{End, Results, Test};

/// Writes all results into one file.
pub(crate) fn write(results: &Results, path: &Path) -> Result<()> {
    let parent = path.parent().context("a folder for the results")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    fs::write(path, render(results)?).with_context(|| format!("writing {}", path.display()))
}

fn render(results: &Results) -> Result<String> {
    let mut report = Report::new("ebusy");
    let mut suites: Vec<TestSuite> = Vec::new();
    for test in &results.tests {
        let case = case(test);
        if let Some(suite) = suites.iter_mut().find(|suite| suite.name.as_str() == test.suite) {
            suite.add_test_case(case);
        } else {
            let mut suite = TestSuite::new(test.suite.as_str());
            suite.add_test_case(case);
            suites.push(suite);
        }
    }
    report.add_test_suites(suites);
    report.to_string().context("writing XML")
}

fn case(test: &Test) -> TestCase {
    let status = match &test.end {
        End::Passed => TestCaseStatus::success(),
        End::Skipped(reason) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason.as_str());
            status
        }
        End::Failed(why) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status
                .set_message(why.as_str())
                .set_description(test.output.as_str());
            status
        }
        // The first run of one that passed in the second: `flakyFailure`.
        End::Flaky(why) => {
            let mut status = TestCaseStatus::success();
            let mut first = TestRerun::new(NonSuccessKind::Failure);
            first
                .set_message(why.as_str())
                .set_description(test.output.as_str());
            status.add_rerun(first);
            status
        }
    };
    let name = if test.name.is_empty() {
        "the whole suite"
    } else {
        &test.name
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(test.suite.as_str()).set_time(test.time);
    case
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_element() {
        let test = |name: &str, end| Test {
            name: name.to_owned(),
            end,
            output: "said \u{1b}[1m<this>".to_owned(),
            ..Test::failed("host: kinds", "")
        };
        let results = Results {
            tests: vec![
                test("a", End::Passed),
                test("b", End::Flaky("late".to_owned())),
                test("c", End::Failed("wrong".to_owned())),
                Test::skipped("kernel 6.1", "no emulator"),
            ],
            measured: Vec::new(),
        };
        let text = render(&results).unwrap();
        for part in [
            r#"<testsuite name="host: kinds" tests="3" skipped="0" errors="0" failures="1""#,
            r#"<flakyFailure message="late""#,
            r#"<failure message="wrong""#,
            r#"<skipped message="no emulator""#,
            "&lt;this&gt;",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
