//! One file among 100,000 descriptors, each of a file of its own; fewer where the limit may not be raised.

use std::{fs::File, os::fd::AsRawFd as _};

use anyhow::ensure;
use ebusy_tests::{claim::Claim, harness, hold::Setup};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors besides the one.
const CROWD: u64 = 99_999;
/// With fewer it is no crowd.
const CROWD_MIN: u64 = 10_000;
/// What a program has open besides.
const OTHERS: u64 = 100;

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let crowd = crowd();
    // There nobody but this test has a say.
    ensure!(
        crowd == CROWD || !harness::in_machine(),
        "no more than {crowd} descriptors in a machine"
    );
    if crowd < CROWD_MIN {
        return setup.skip(&format!("no more than {crowd} descriptors"));
    }
    let mut files = Vec::new();
    for _ in 0..crowd {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => return setup.skip(&format!("{} files: {error}", files.len())),
        }
    }
    let file = File::open(setup.path())?;
    eprintln!("{crowd} descriptors and one");
    setup.hold(vec![
        Claim::fd(file.as_raw_fd().cast_unsigned(), "read").regular(),
    ])
}

/// As many as there may be.
fn crowd() -> u64 {
    let set = |limit| {
        let (current, maximum) = (Some(limit), Some(limit));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
    };
    if set(CROWD + OTHERS).is_ok() {
        return CROWD;
    }
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(CROWD);
    match set(limit) {
        Ok(()) => limit.saturating_sub(OTHERS).min(CROWD),
        Err(_) => 0,
    }
}
