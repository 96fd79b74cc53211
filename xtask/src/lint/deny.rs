//! cargo-deny, in a version that can read `deny.toml`: kept beside the build.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, Result};

use crate::{command, say, setup, toolchain, workspace::Workspace};

const VERSION: &str = "0.20.2";

/// Checks licences, bans and sources. Not the advisories: their database comes from a host that not every machine
/// reaches.
pub(crate) fn check(workspace: &Workspace) -> Result<bool> {
    let root = workspace.target.join("ci");
    let program = root.join("bin/cargo-deny");
    if !is_current(&program) {
        say(&format!("building cargo-deny {VERSION}"));
        let mut install = setup::install("cargo-deny", VERSION, &root);
        install.arg("--quiet");
        command::run(&mut install).context("building cargo-deny")?;
    }
    let mut deny = toolchain::bare(program);
    deny.current_dir(&workspace.root)
        .args(["check", "licenses", "bans", "sources"]);
    Ok(command::status(&mut deny)?.success())
}

fn is_current(program: &Path) -> bool {
    let output = toolchain::bare(program)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == format!("cargo-deny {VERSION}").as_bytes())
}
