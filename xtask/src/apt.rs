//! Debian packages, in two ways: installed into the system (root), or downloaded and unpacked into our own directory,
//! with our own state of apt, which needs no root and changes nothing in the system.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, say, sources::Mirror};

/// True if this machine has Debian's package tools.
pub(crate) fn available() -> bool {
    Path::new("/usr/bin/apt-get").is_file() && Path::new("/usr/bin/dpkg-deb").is_file()
}

/// True if packages can be installed into the system.
pub(crate) fn can_install() -> bool {
    available() && rustix::process::geteuid().is_root()
}

/// Installs the missing ones of these packages, and never removes another for it.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let updated = !missing.iter().all(|package| has_candidate(package));
    if updated {
        update()?;
    }
    if let Some(unknown) = missing.iter().find(|package| !has_candidate(package)) {
        bail!("the package {unknown} is not in the archives that /etc/apt names");
    }
    say(&format!("installing {}", missing.join(" ")));
    let install = || {
        command::run(
            apt_get()
                .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
                .args(&missing),
        )
    };
    match install() {
        // The lists may name versions that the archive has replaced since.
        Err(_) if !updated => {
            update()?;
            install()
        }
        result => result,
    }
}

fn update() -> Result<()> {
    say("reading the package lists");
    command::run(apt_get().args(["update", "--quiet"]))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

/// True if the package is installed into the system.
fn installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

fn has_candidate(package: &str) -> bool {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(["policy", package])
        .output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Candidate: "))
            .any(|version| version != "(none)")
    })
}

/// A state of apt in a directory.
#[derive(Debug)]
pub(crate) struct Private {
    options: Vec<String>,
    scratch: PathBuf,
}

impl Private {
    /// Reads the lists of these suites of the machine's Debian mirror, or, without suites, of all suites that the
    /// machine itself uses.
    pub(crate) fn open(directory: &Path, suites: &[&str]) -> Result<Self> {
        if !available() {
            bail!("this machine has no apt, which test kernels and tools are fetched by");
        }
        for part in ["lists/partial", "cache/archives/partial", "sources"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let path = |part: &str| directory.join(part).display().to_string();
        fs::write(directory.join("status"), "")?;
        let mut options = vec![
            format!("Dir::State={}", directory.display()),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Cache::archives={}", path("cache/archives")),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The releases of old kernels get no new signatures.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
        ];
        if !suites.is_empty() {
            let mirror = Mirror::of_this_machine()?;
            fs::write(directory.join("sources/ebusy.sources"), mirror.render(suites))?;
            options.push("Dir::Etc::sourcelist=/dev/null".to_owned());
            options.push(format!("Dir::Etc::sourceparts={}", path("sources")));
        }
        let private = Self {
            options,
            scratch: directory.join("scratch"),
        };
        let mut update = private.apt("apt-get");
        update.args(["update", "--quiet"]);
        if !suites.is_empty() {
            // An archive that the machine's owner added may fail without harm; these may not.
            update.arg("--error-on=any");
        }
        command::run(&mut update)?;
        Ok(private)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// The names of all packages with this prefix.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = self
            .apt("apt-cache")
            .args(["pkgnames", prefix])
            .stderr(Stdio::inherit())
            .output();
        let output = output.context("starting apt-cache")?;
        if !output.status.success() {
            bail!("apt-cache pkgnames {prefix} ended with {}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Downloads a package with all dependencies that the machine lacks, and unpacks it into a directory. The machine
    /// itself stays as it is.
    pub(crate) fn unpack_with_dependencies(&self, package: &str, into: &Path) -> Result<()> {
        say(&format!("fetching {package} and what it depends on"));
        let _ = fs::remove_dir_all(&self.scratch);
        let archives = self.scratch.join("archives");
        fs::create_dir_all(archives.join("partial"))
            .with_context(|| format!("creating {}", archives.display()))?;
        command::run(
            self.apt("apt-get")
                .args(["-o", "Dir::State::status=/var/lib/dpkg/status", "-o"])
                .arg(format!("Dir::Cache::archives={}", archives.display()))
                .args(["-o", "Debug::NoLocking=true"])
                .args([
                    "install",
                    "--download-only",
                    "--yes",
                    "--quiet",
                    "--no-install-recommends",
                ])
                .arg(package),
        )?;
        self.extract(&archives, into)
    }

    fn extract(&self, archives: &Path, into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
        for entry in fs::read_dir(archives)? {
            let package = entry?.path();
            if package.extension().is_some_and(|extension| extension == "deb") {
                command::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(into))?;
            }
        }
        fs::remove_dir_all(&self.scratch).with_context(|| format!("removing {}", self.scratch.display()))
    }

    /// Downloads these packages and unpacks them into a directory.
    pub(crate) fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        say(&format!("fetching {}", packages.join(" ")));
        if self.scratch.exists() {
            fs::remove_dir_all(&self.scratch)
                .with_context(|| format!("removing {}", self.scratch.display()))?;
        }
        fs::create_dir_all(&self.scratch).with_context(|| format!("creating {}", self.scratch.display()))?;
        command::run(
            self.apt("apt-get")
                .args(["download", "--quiet"])
                .args(packages)
                .current_dir(&self.scratch),
        )?;
        self.extract(&self.scratch, into)
    }
}
