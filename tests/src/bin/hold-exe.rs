//! Becomes a program of the mount: the path is to be a copy of `hold-idle`.

use std::{os::unix::process::CommandExt as _, process::Command};

use ebusy_tests::hold::Setup;

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    Err(Command::new(setup.path()).arg(setup.path()).exec().into())
}
