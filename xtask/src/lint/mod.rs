//! `cargo xtask lint`: the checks of a change before any test runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{command, phases::Phases, say, setup, workspace::Workspace};

mod cited;
mod deny;
mod rooms;
mod sleeps;

/// Format, pauses, clippy on both sides, and the licences of the dependencies: fast checks come first.
pub(crate) fn main(workspace: &Workspace) -> Result<u8> {
    let mut phases = Phases::of_this_run(workspace);
    let mut failed = Vec::new();
    let mut check = |name: &'static str, what: &mut dyn FnMut() -> Result<bool>| -> Result<()> {
        say(name);
        if !phases.time(&format!("lint: {name}"), what)? {
            failed.push(name);
        }
        Ok(())
    };
    let cargo = |args: &[&str]| -> Result<bool> {
        let (verb, args) = args.split_first().unwrap_or((&"check", &[]));
        Ok(command::status(workspace.cargo(verb).args(args))?.success())
    };
    check("fmt", &mut || cargo(&["fmt", "--all", "--check"]))?;
    check("sleeps", &mut || sleeps::check(&workspace.root))?;
    check("rooms", &mut || rooms::check(&workspace.root))?;
    check("cited files", &mut || cited::check(&workspace.root))?;
    // The build script of the tracer compiles the kernel programs for clippy, too.
    check("set-up", &mut || setup::toolchain(false).map(|_| true))?;
    check("clippy", &mut || {
        let all = ["--workspace", "--exclude", "tracer-ebpf", "--all-targets"];
        cargo(&[["clippy"].as_slice(), &all, &["--", "-D", "warnings"]].concat())
    })?;
    // Without unwinding, which the host has in every other profile; the build of the tests' ebusy can reuse its
    // results.
    check("clippy of the kernel side", &mut || {
        let kernel = ["clippy", "--package", "tracer-ebpf", "--profile", "ci"];
        cargo(&[kernel.as_slice(), &["--", "-D", "warnings"]].concat())
    })?;
    check("deny", &mut || deny::check(workspace))?;
    phases.save_if_part()?;
    eprint!("{}", phases.table_with_last());
    for name in &failed {
        say(&format!("{name} failed"));
    }
    Ok(u8::from(!failed.is_empty()))
}

/// All files of Rust below a folder, in order.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
