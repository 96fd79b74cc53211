//! `cargo xtask soak`: a recorder under load and faults, for a given time.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use rustix::process::geteuid;

use crate::{
    run::{self, Profile},
    say, suites, toolchain, tools,
    workspace::Workspace,
};

/// Builds ebusy and the load (`tests/src/soak.rs`), and runs it; it prints the balance.
pub(crate) fn main(workspace: &Workspace, minutes: u64) -> Result<u8> {
    if !geteuid().is_root() {
        say("it mounts and records, which only root may; type: sudo -E env PATH=$PATH cargo xtask soak");
        return Ok(2);
    }
    let ebusy = run::build(workspace, Profile::Release)?;
    let holders = suites::holders(workspace)?;
    let mut command = toolchain::bare(&holders);
    // This executable is all programs of the package; its name selects one.
    command
        .arg0("soak")
        .arg(minutes.to_string())
        .env("EBUSY_BIN", &ebusy)
        .env("EBUSY_HOLDERS", holders.parent().context("a folder of programs")?)
        .env("PATH", tools::search_path(workspace, false)?);
    say(&format!("{minutes} minutes of load and faults"));
    let status = command.status().context("starting the soak")?;
    Ok(u8::from(!status.success()))
}
