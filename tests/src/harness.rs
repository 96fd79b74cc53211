//! The main function of the suites of tests, and tests that cannot run.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use libtest_mimic::{Arguments, ColorSetting, Failed, Trial};

use crate::{follower, holder::Skip, namespace};

/// The result of a test that did not fail.
#[derive(Debug)]
pub enum Verdict {
    /// It ran.
    Passed,
    /// It could not run here.
    Skipped(String),
}

/// A test that takes longer says how long.
const SLOW: Duration = Duration::from_secs(1);

/// A test.
pub fn test<F>(name: impl Into<String>, run: F) -> Trial
where
    F: FnOnce() -> Result<Verdict> + Send + 'static,
{
    let name = name.into();
    Trial::test(name.clone(), move || {
        let start = Instant::now();
        let verdict = if rustix::process::geteuid().is_root() {
            let verdict = run();
            // With several tests at a time, only the harness knows which one this is.
            if start.elapsed() > SLOW {
                println!("\ntook: {name}: {:.1}", start.elapsed().as_secs_f64());
            }
            // The alternate form has the chain of causes on one line.
            match verdict {
                Ok(verdict) => verdict,
                Err(error) => match error.downcast::<Skip>() {
                    Ok(skip) => Verdict::Skipped(skip.skip),
                    Err(error) => return Err(Failed::from(format!("{error:#}"))),
                },
            }
        } else {
            Verdict::Skipped("not root".to_owned())
        };
        if let Verdict::Skipped(reason) = verdict {
            // The harness has already begun a line.
            println!("\nskipped: {name}: {reason}");
        }
        Ok(())
    })
}

/// Waits until every ebusy that this test runs knows all current mounts and namespaces, and has looked at all refusals.
pub fn settle() -> Result<()> {
    follower::catch_up().map(drop)
}

/// True in a virtual machine, which may be emulated.
#[must_use]
pub fn in_machine() -> bool {
    std::env::var_os("EBUSY_VM").is_some()
}

/// True if all tests shall run instead of a choice.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os("EBUSY_FULL").is_some()
}

/// Runs tests one after the other, in a mount namespace of their own where every mount is shared.
#[must_use]
pub fn main(tests: Vec<Trial>) -> ExitCode {
    // They load the machine and look at all of it: two at a time would only disturb each other.
    main_with(tests, 1)
}

/// Runs tests that mostly wait and use only their own mounts, several at once on a host. In a machine they take turns:
/// on a kernel that preempts (7.2), parallel work costs events, and some tests count those.
#[must_use]
pub fn main_side_by_side(tests: Vec<Trial>, threads: usize) -> ExitCode {
    main_with(tests, if in_machine() { 1 } else { threads })
}

/// Runs tests that mostly wait and use only their own mounts, several at once.
#[must_use]
pub fn main_with(tests: Vec<Trial>, threads: usize) -> ExitCode {
    // The name of the suite comes first.
    let mut arguments = Arguments::from_iter(std::env::args_os().skip(1));
    arguments.test_threads = Some(threads);
    // The shell of a background job ignores interrupts, and the children would inherit that. SAFETY: no handler is
    // given; nothing else runs yet.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    // In a virtual machine the output goes through a terminal to a program that reads it.
    arguments.color.get_or_insert(ColorSetting::Never);
    if !arguments.list
        && rustix::process::geteuid().is_root()
        && let Err(error) = namespace::enter_isolated()
    {
        eprintln!("cannot enter a mount namespace: {error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, tests).exit_code()
}
