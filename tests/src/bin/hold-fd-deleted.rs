//! Holds a file open that it has unlinked.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    let mut claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    fs::remove_file(setup.path())?;
    claim.deleted = true;
    setup.hold(vec![claim])
}
