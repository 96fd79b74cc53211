//! What tests are made of: which executable has a suite, with which arguments, and what it is given. Built once for
//! this host and for all machines.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    run::{self, Profile},
    toolchain,
    unit::{self, Unit},
    vm::Job,
    workspace::{Artifact, Workspace},
};

const TESTS: &str = "ebusy-tests";

/// Which tests of a suite run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    All,
    /// Those that have this in their names.
    Like(&'a str),
    /// The one of this name.
    Only(&'a str),
}

/// A suite of tests on real mounts: a process.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
    program: PathBuf,
}

impl Suite {
    /// The arguments that run these tests, uncaptured, with an event a line.
    fn args(which: Which<'_>) -> Vec<String> {
        let mut args = vec!["--format", "json", "--nocapture"];
        match which {
            Which::All => {}
            Which::Like(part) => args.push(part),
            Which::Only(name) => args.extend(["--exact", name]),
        }
        args.into_iter().map(str::to_owned).collect()
    }
}

/// What the tests on a host or in a machine are given.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) ebusy: PathBuf,
    pub(crate) suites: Vec<Suite>,
    pub(crate) units: Vec<Unit>,
    pub(crate) holder_directory: PathBuf,
    holders: Vec<Artifact>,
}

/// Builds all of them at once, so that a dependency is compiled once for all.
pub(crate) fn build_tests(workspace: &Workspace, ebusy: PathBuf) -> Result<Built> {
    let mut command = workspace.cargo("test");
    command
        .args(["--no-run", "--workspace", "--exclude", "tracer-ebpf", "--lib"])
        // Each by its name: the holder programs have no unit tests, and need no executables for them.
        .args([
            "--bin", "ebusy", "--bin", "xtask", "--bin", "vm-init", "--test", "*",
        ]);
    let artifacts = Workspace::artifacts(&mut command)?;
    let (mut suites, mut units, mut holders) = (Vec::new(), Vec::new(), Vec::new());
    let mut holder_directory = workspace.target.clone();
    for artifact in artifacts {
        let of_tests = artifact.package.ends_with("tests");
        match (artifact.kind.as_str(), artifact.harness) {
            ("test", true) if of_tests => suites.push(Suite {
                name: artifact.name,
                program: artifact.path,
            }),
            ("bin", false) if of_tests => {
                if let Some(directory) = artifact.path.parent() {
                    holder_directory = directory.to_path_buf();
                }
                holders.push(artifact);
            }
            (_, true) => units.push(unit::of(artifact)),
            _ => {}
        }
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Built {
        ebusy,
        suites,
        units,
        holder_directory,
        holders,
    })
}

/// The program that the tests run.
pub(crate) fn build_ebusy(workspace: &Workspace) -> Result<PathBuf> {
    run::build(workspace, Profile::Ci)
}

/// The program `soak` of the tests.
pub(crate) fn soak(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo("build");
    command.args(["--package", TESTS, "--bins"]);
    let programs = Workspace::artifacts(&mut command)?;
    let soak = programs.into_iter().find(|artifact| artifact.name == "soak");
    Ok(soak.context("cargo built no program soak")?.path)
}

impl Built {
    /// The suite of this name.
    pub(crate) fn suite(&self, name: &str) -> Option<&Suite> {
        self.suites.iter().find(|suite| suite.name == name)
    }

    /// Runs a suite on this host.
    pub(crate) fn on_host(&self, root: &Path, suite: &Suite, which: Which<'_>) -> Command {
        let mut command = toolchain::bare(&suite.program);
        let package = root.join("tests");
        command
            .args(Suite::args(which))
            .current_dir(&package)
            .env("CARGO_MANIFEST_DIR", &package)
            .env("EBUSY_BIN", &self.ebusy)
            .env("EBUSY_HOLDERS", &self.holder_directory)
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// Runs a suite in a machine of this kernel.
    pub(crate) fn in_machine(&self, suite: &Suite, which: Which<'_>, kernel: &str, tier: &str) -> Job {
        let program = format!("/opt/tests/{}", suite.name);
        let mut programs = vec![
            ("/opt/bin/ebusy".to_owned(), self.ebusy.clone()),
            (program.clone(), suite.program.clone()),
        ];
        for holder in &self.holders {
            programs.push((format!("/opt/holders/{}", holder.name), holder.path.clone()));
        }
        let env = [
            ("EBUSY_BIN", "/opt/bin/ebusy"),
            ("EBUSY_HOLDERS", "/opt/holders"),
            ("EBUSY_VM", kernel),
            ("EBUSY_PROBE", tier),
            ("RUST_BACKTRACE", "1"),
        ];
        Job {
            programs,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            argv: [program].into_iter().chain(Suite::args(which)).collect(),
            ..Job::default()
        }
    }
}
