//! Holds a file with `O_PATH`: overlayfs opens no backing file for it.

use std::os::fd::AsRawFd as _;

use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::fs::{Mode, OFlags, open};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = open(setup.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let claim = Claim::fd(file.as_raw_fd() as u32, "path").opened_since(setup.began);
    setup.hold(vec![claim])
}
