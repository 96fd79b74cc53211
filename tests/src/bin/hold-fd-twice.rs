//! Opens one file twice: two open file descriptions.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let files = [File::open(setup.path())?, File::open(setup.path())?];
    let claims = files
        .iter()
        .map(|file| {
            Claim::fd(file.as_raw_fd() as u32, "read")
                .regular()
                .opened_since(setup.began)
        })
        .collect();
    setup.hold(claims)
}
