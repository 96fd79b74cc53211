//! Holds a regular file open for reading and writing, opened with creat(2)'s flags.

use std::{fs::OpenOptions, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(setup.path())?;
    let claim = Claim::fd(file.as_raw_fd() as u32, "read+write")
        .regular()
        .opened_since(setup.began);
    setup.hold(vec![claim])
}
