//! Holds a directory open; used for the root of the mount as well.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let directory = File::open(setup.path())?;
    let claim = Claim::fd(directory.as_raw_fd() as u32, "read").opened_since(setup.began);
    setup.hold(vec![claim])
}
