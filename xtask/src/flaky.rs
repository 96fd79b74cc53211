//! Failed tests run once more, alone. Those that then pass are flaky: a result of its own, with a budget.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    events::Outcome,
    results::{End, Results, Test},
    say,
    suites::Which,
};

/// A run with more flaky tests than this has failed.
pub(crate) const BUDGET: usize = 3;

/// Lines of a file in the folder of flaky tests that are shown at the end.
const SHOWN: usize = 60;

/// The tests to run once more after a first run.
#[derive(Debug, Eq, PartialEq)]
enum Again {
    Nothing,
    /// The run broke down: earlier passes say nothing about the rest.
    Whole,
    /// Each of these, alone.
    Each(Vec<String>),
}

fn again(first: &Outcome) -> Again {
    if first.broke.is_some() {
        return Again::Whole;
    }
    let failed: Vec<String> = first
        .results
        .tests
        .iter()
        .filter(|test| test.has_failed())
        .map(|test| test.name.clone())
        .collect();
    // More than the budget are no accident: the run has failed even if a second try passes.
    if failed.is_empty() || failed.len() > BUDGET {
        Again::Nothing
    } else {
        Again::Each(failed)
    }
}

/// Runs a suite, and its failed tests once more.
pub(crate) fn run(
    suite: &str,
    which: Which<'_>,
    mut run: impl FnMut(Which<'_>) -> Result<Outcome>,
) -> Result<Results> {
    let mut first = run(which)?;
    match again(&first) {
        Again::Nothing => {}
        Again::Whole => {
            let (reason, output) = first.broke.take().unwrap_or_default();
            say(&format!("{suite} broke down ({reason}): once more"));
            let second = run(which)?;
            return Ok(whole(suite, (reason, output), second));
        }
        Again::Each(names) => {
            for name in names {
                say(&format!("{suite}: {name} failed: once more, alone"));
                let second = run(Which::Only(&name))?;
                let failed = first.results.tests.iter_mut().find(|test| test.name == name);
                if let Some(failed) = failed {
                    merge(failed, &second);
                }
            }
        }
    }
    Ok(first.results)
}

/// The second run counts, and the first as one flaky test.
fn whole(suite: &str, first: (String, String), second: Outcome) -> Results {
    let mut results = second.results;
    let (mut end, mut output) = (End::Flaky(first.0.clone()), first.1);
    if let Some((reason, said)) = second.broke {
        end = End::Failed(format!("{}; once more: {reason}", first.0));
        output = both(&output, &said);
    }
    results.tests.push(Test {
        end,
        output,
        ..Test::failed(suite, "")
    });
    results
}

/// Merges the result of a second run, alone, into that of the first.
fn merge(failed: &mut Test, second: &Outcome) {
    let End::Failed(why) = &failed.end else { return };
    let passed = second.broke.is_none() && second.results.tests.iter().any(|test| test.end == End::Passed);
    if passed {
        failed.end = End::Flaky(why.clone());
    }
    let of_second = second
        .results
        .tests
        .iter()
        .find(|test| test.name == failed.name)
        .map_or("", |test| test.output.as_str());
    failed.output = both(&failed.output, of_second);
}

fn both(first: &str, second: &str) -> String {
    format!("{first}\n-- once more --\n{second}")
}

/// Keeps the output of both runs of flaky tests in this folder, and shows the end of each.
pub(crate) fn keep(results: &Results, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    for test in results.tests.iter().filter(|test| test.is_flaky()) {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let End::Flaky(why) = &test.end else { continue };
        let text = format!("{}\nfailed at first: {why}\n{}\n", test.full_name(), test.output);
        let name = test.full_name().replace(
            |letter: char| !letter.is_ascii_alphanumeric() && letter != '.',
            "_",
        );
        let path = folder.join(name).with_extension("txt");
        fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
        println!("\n== flaky: the end of {}", path.display());
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("{line}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, end: End) -> Test {
        Test {
            name: name.to_owned(),
            end,
            ..Test::failed("host: kinds", "")
        }
    }

    fn outcome(ends: &[(&str, End)], broke: Option<&str>) -> Outcome {
        Outcome {
            results: Results {
                tests: ends.iter().map(|(name, end)| test(name, end.clone())).collect(),
                measured: Vec::new(),
            },
            broke: broke.map(|reason| (reason.to_owned(), String::new())),
        }
    }

    fn failed() -> End {
        End::Failed("no".to_owned())
    }

    #[test]
    fn which_run_once_more() {
        let one = [("a", End::Passed), ("b", failed())];
        assert_eq!(again(&outcome(&one, None)), Again::Each(vec!["b".to_owned()]));
        assert_eq!(again(&outcome(&one, Some("signal: 11"))), Again::Whole);
        assert_eq!(again(&outcome(&[("a", End::Passed)], None)), Again::Nothing);
        let many = ["a", "b", "c", "d"].map(|name| (name, failed()));
        assert_eq!(again(&outcome(&many, None)), Again::Nothing);
    }

    #[test]
    fn what_passes_alone_is_flaky_and_what_fails_again_has_failed() {
        for (second, expected) in [(End::Passed, End::Flaky("no".to_owned())), (failed(), failed())] {
            let mut runs = vec![
                outcome(&[("b", second)], None),
                outcome(&[("a", End::Passed), ("b", failed())], None),
            ];
            let results = run("host: kinds", Which::All, |_| Ok(runs.pop().unwrap())).unwrap();
            assert_eq!(results.tests[1].end, expected);
        }
    }

    #[test]
    fn a_run_that_breaks_down_is_repeated_whole() {
        let mut runs = vec![
            outcome(&[("a", End::Passed), ("b", End::Passed)], None),
            outcome(&[("a", failed())], Some("the machine died")),
        ];
        let results = run("6.1: kinds", Which::All, |_| Ok(runs.pop().unwrap())).unwrap();
        assert_eq!((results.flaky(), results.have_failed()), (1, false));
        assert_eq!(results.summary(), "3 passed, 0 failed, 0 skipped");

        let results = run("6.1: kinds", Which::All, |_| Ok(outcome(&[], Some("dead")))).unwrap();
        assert_eq!(results.summary(), "0 passed, 1 failed, 0 skipped");
    }
}
