//! `cargo xtask lint`: what the checks of a change look at before any test runs.

use std::process::Stdio;

use anyhow::Result;

use crate::{command, say, setup, toolchain, workspace::Workspace};

/// Format, clippy on both sides, and the licences of the dependencies.
pub(crate) fn main(workspace: &Workspace) -> Result<u8> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, args: &[&str]| -> Result<()> {
        say(name);
        let (verb, args) = args.split_first().unwrap_or((&name, &[]));
        if !command::status(workspace.cargo(verb).args(args))?.success() {
            failed.push(name);
        }
        Ok(())
    };
    check("fmt", &["fmt", "--all", "--check"])?;
    // The build script of the tracer compiles the kernel programs for clippy, too.
    setup::toolchain(false)?;
    let strict = ["--", "-D", "warnings"];
    let user = [
        "clippy",
        "--workspace",
        "--exclude",
        "tracer-ebpf",
        "--all-targets",
    ];
    check("clippy", &[user.as_slice(), &strict].concat())?;
    // Without unwinding, which the host has in every other profile.
    let kernel = ["clippy", "--package", "tracer-ebpf", "--release"];
    check(
        "clippy of the kernel side",
        &[kernel.as_slice(), &strict].concat(),
    )?;
    let mut deny = toolchain::bare("cargo");
    let deny = deny
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if deny.is_ok_and(|status| status.success()) {
        check("deny", &["deny", "check", "licenses", "bans", "sources"])?;
    } else {
        say(
            "cargo-deny is not installed, the licences are not checked; type: cargo install --locked cargo-deny",
        );
    }
    for name in &failed {
        say(&format!("{name} failed"));
    }
    Ok(u8::from(!failed.is_empty()))
}
