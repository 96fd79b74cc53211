//! The parts of a test run: the executable, arguments and environment of a suite. Built once for this host and for all
//! machines.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    run::{self, Profile},
    toolchain,
    unit::{self, Unit},
    vm::Job,
    workspace::Workspace,
};

const TESTS: &str = "ebusy-tests";

/// Makes a suite run all its tests instead of a choice.
const FULL: &str = "EBUSY_FULL";

/// The user's settings for the suite `adversary`.
const ADVERSARY: [&str; 3] = [
    "EBUSY_ADVERSARY_SEED",
    "EBUSY_ADVERSARY_RATE",
    "EBUSY_ADVERSARY_SECONDS",
];

/// Extra time for a run with these settings: each of the two tests takes that long.
pub(crate) fn asked_time() -> Duration {
    let seconds = std::env::var(ADVERSARY[2])
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    2 * Duration::from_secs(seconds.unwrap_or(0))
}

/// The selected tests of a suite.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    All,
    /// Those that have this in their names.
    Like(&'a str),
    /// The test with this name.
    Only(&'a str),
}

/// A suite of tests on real mounts: a process.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
}

impl Suite {
    /// The arguments that run these tests, uncaptured, with one event a line.
    fn args(&self, which: Which<'_>) -> Vec<String> {
        let mut args = vec![self.name.as_str(), "--format", "json", "--nocapture"];
        match which {
            Which::All => {}
            Which::Like(part) => args.push(part),
            Which::Only(name) => args.extend(["--exact", name]),
        }
        args.into_iter().map(str::to_owned).collect()
    }
}

/// The environment of tests on a host or in a machine.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) ebusy: PathBuf,
    pub(crate) suites: Vec<Suite>,
    pub(crate) units: Vec<Unit>,
    pub(crate) holder_directory: PathBuf,
    /// Suites leave nothing out.
    pub(crate) full: bool,
    /// Additional files of machines: paths there and here.
    pub(crate) tools: Vec<(String, PathBuf)>,
    /// All suites are one executable, and all holder programs.
    tests: PathBuf,
    holders: PathBuf,
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
    let (mut units, mut tests, mut holders) = (Vec::new(), None, None);
    for artifact in artifacts {
        let of_tests = artifact.package.ends_with("tests");
        match (artifact.kind.as_str(), artifact.harness) {
            ("test", true) if of_tests => tests = Some(artifact.path),
            ("bin", false) if of_tests => holders = Some(artifact.path),
            (_, true) => units.push(unit::of(artifact)),
            _ => {}
        }
    }
    let tests = tests.context("cargo built no suites of tests")?;
    let holders = holders.context("cargo built no holder programs")?;
    Ok(Built {
        ebusy,
        suites: suites(&tests)?,
        units,
        holder_directory: holders
            .parent()
            .context("a program is in a folder")?
            .to_path_buf(),
        full: false,
        tools: Vec::new(),
        tests,
        holders,
    })
}

/// The suites in the executable.
fn suites(tests: &Path) -> Result<Vec<Suite>> {
    let output = toolchain::bare(tests)
        .arg("--list-suites")
        .output()
        .with_context(|| format!("starting {}", tests.display()))?;
    let names = String::from_utf8(output.stdout).context("names of suites")?;
    Ok(names
        .lines()
        .map(|name| Suite {
            name: name.to_owned(),
        })
        .collect())
}

/// The program that the tests run.
pub(crate) fn build_ebusy(workspace: &Workspace) -> Result<PathBuf> {
    run::build(workspace, Profile::Ci)
}

/// The executable of all holder programs, which include the soak.
pub(crate) fn holders(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo("build");
    command.args(["--package", TESTS, "--bins"]);
    let programs = Workspace::artifacts(&mut command)?;
    let holders = programs.into_iter().find(|artifact| artifact.name == "holders");
    Ok(holders.context("cargo built no program holders")?.path)
}

impl Built {
    /// The suite of this name.
    pub(crate) fn suite(&self, name: &str) -> Option<&Suite> {
        self.suites.iter().find(|suite| suite.name == name)
    }

    /// Runs a suite on this host.
    pub(crate) fn on_host(&self, root: &Path, suite: &Suite, which: Which<'_>) -> Command {
        let mut command = toolchain::bare(&self.tests);
        let package = root.join("tests");
        command
            .args(suite.args(which))
            .current_dir(&package)
            .env("CARGO_MANIFEST_DIR", &package)
            .env("EBUSY_BIN", &self.ebusy)
            .env("EBUSY_HOLDERS", &self.holder_directory)
            .env("RUST_BACKTRACE", "1");
        if self.full {
            command.env(FULL, "1");
        }
        command
    }

    /// Runs a suite in a machine of this kernel.
    pub(crate) fn in_machine(&self, suite: &Suite, which: Which<'_>, kernel: &str, tier: &str) -> Job {
        let program = "/opt/bin/suites".to_owned();
        let programs = vec![
            ("/opt/bin/ebusy".to_owned(), self.ebusy.clone()),
            (program.clone(), self.tests.clone()),
            ("/opt/holders/holders".to_owned(), self.holders.clone()),
        ];
        let full = self.full.then_some((FULL, "1"));
        let asked = ADVERSARY
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let env = [
            ("EBUSY_BIN", "/opt/bin/ebusy"),
            ("EBUSY_HOLDERS", "/opt/holders"),
            ("EBUSY_VM", kernel),
            ("EBUSY_PROBE", tier),
            ("RUST_BACKTRACE", "1"),
        ];
        Job {
            programs,
            files: self.tools.clone(),
            env: env
                .into_iter()
                .chain(full)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .chain(asked)
                .collect(),
            argv: [program].into_iter().chain(suite.args(which)).collect(),
            saved: true,
            ..Job::default()
        }
    }
}
