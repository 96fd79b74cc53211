//! `ebusy audit`, and the fields of its JSON that tests read.

#![expect(missing_docs, reason = "docs/schema describes the fields")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{
    ebusy::{command, run},
    report::{Fix, Holder, Process, Target},
    schema,
};

/// An audit.
#[derive(Debug, Clone, Deserialize)]
pub struct Audit {
    pub probe: String,
    pub blind: Vec<String>,
    pub gaps: Vec<String>,
    pub watched: u64,
    pub now: Vec<Now>,
    pub can_pin: Vec<Group>,
    pub can_leak: Vec<Group>,
    pub leaked: Vec<Leaked>,
    pub detached: Vec<Detached>,
    pub namespaces: Vec<KeptNamespace>,
    pub own: Option<Own>,
}

/// A mount that is stuck or busy.
#[derive(Debug, Clone, Deserialize)]
pub struct Now {
    pub target: Target,
    pub stuck: bool,
    pub holders: Vec<Holder>,
    pub unexplained: Option<u64>,
    pub fixes: Vec<Fix>,
}

/// A workload that has copies.
#[derive(Debug, Clone, Deserialize)]
pub struct Workload {
    pub process: Option<Process>,
    pub same_namespace: bool,
}

/// The copies of a workload.
#[derive(Debug, Clone, Deserialize)]
pub struct Group {
    pub workload: Workload,
    pub mount_namespaces: Vec<u32>,
    pub mounts: u64,
    pub in_use: u64,
    pub copies: Vec<CopiedMount>,
    pub fixes: Vec<Fix>,
}

/// A copy.
#[derive(Debug, Clone, Deserialize)]
pub struct CopiedMount {
    pub target: Target,
    pub path: PathBuf,
    pub propagation: Option<String>,
    pub holders: Vec<Holder>,
}

/// A mount whose container is gone.
#[derive(Debug, Clone, Deserialize)]
pub struct Leaked {
    pub what: String,
    pub places: Vec<LeakedPlace>,
    pub fixes: Vec<Fix>,
}

/// A place of it.
#[derive(Debug, Clone, Deserialize)]
pub struct LeakedPlace {
    pub mount: Target,
    pub workload: Option<Workload>,
}

/// A mount in no namespace.
#[derive(Debug, Clone, Deserialize)]
pub struct Detached {
    pub mount_id: u32,
    pub mounted_elsewhere: bool,
    pub bytes: Option<u64>,
    pub holders: Vec<Holder>,
    pub unexplained: Option<u64>,
}

/// A namespace without a process.
#[derive(Debug, Clone, Deserialize)]
pub struct KeptNamespace {
    pub number: u32,
    pub watched: u64,
    pub kept_by: Vec<Keeper>,
    pub fixes: Vec<Fix>,
}

/// A reference that keeps it.
#[derive(Debug, Clone, Deserialize)]
pub struct Keeper {
    pub kind: String,
    pub process: Option<Process>,
    pub path: Option<PathBuf>,
}

/// ebusy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Own {
    pub references: u64,
    pub namespaces: u64,
}

/// Number of findings in each section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub now: usize,
    pub can_pin: usize,
    pub can_leak: usize,
    pub leaked: usize,
    pub detached: usize,
    pub namespaces: usize,
}

/// The findings that belong to a test: everything else on the machine is left out.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// Mounts below these directories.
    pub below: Vec<PathBuf>,
    /// Detached mounts with these ids.
    pub detached: Vec<u32>,
    /// Namespaces that these processes have descriptors of, or that are bound below the directories.
    pub pids: Vec<u32>,
}

impl Audit {
    /// Runs it with `--target` for each of these.
    pub fn run(targets: &[&Path]) -> Result<(i32, Self)> {
        let mut command = command("audit")?;
        command.args(["--format", "json"]);
        for target in targets {
            command.arg("--target").arg(target);
        }
        let finished = run(&mut command)?;
        let code = finished.status.code().context("an exit status")?;
        let audit: Self =
            schema::read(str::from_utf8(&finished.stdout)?).with_context(|| finished.stderr.clone())?;
        ensure!(
            audit.blind.is_empty() && audit.gaps.is_empty(),
            "blind: {:?}, {:?}",
            audit.blind,
            audit.gaps
        );
        // The audit measures this itself; a separate test looks from outside.
        let none = Own {
            references: 0,
            namespaces: 0,
        };
        ensure!(audit.own == Some(none), "{:?}", audit.own);
        Ok((code, audit))
    }

    /// Runs it, and leaves out findings that are not the test's; checks that the exit status agrees with the findings.
    pub fn of(ours: &Ours, targets: &[&Path]) -> Result<Self> {
        let (code, mut audit) = Self::run(targets)?;
        let all = audit.found();
        ensure!(
            (code == 1) == (all != Found::default()),
            "exit status {code}, {all:?}"
        );
        let below = |path: &Path| ours.below.iter().any(|directory| path.starts_with(directory));
        let is_ours = |target: &Target| below(Path::new(&target.path));
        audit.now.retain(|now| is_ours(&now.target));
        for groups in [&mut audit.can_pin, &mut audit.can_leak] {
            groups.retain(|group| group.copies.iter().any(|copy| is_ours(&copy.target)));
        }
        audit
            .leaked
            .retain(|leaked| leaked.places.iter().any(|place| is_ours(&place.mount)));
        audit
            .detached
            .retain(|detached| ours.detached.contains(&detached.mount_id));
        audit.namespaces.retain(|namespace| {
            namespace.kept_by.iter().any(|keeper| {
                let pid = keeper.process.as_ref().map(|process| process.pid);
                pid.is_some_and(|pid| ours.pids.contains(&pid)) || keeper.path.as_deref().is_some_and(below)
            })
        });
        Ok(audit)
    }

    /// Counts the findings.
    #[must_use]
    pub fn found(&self) -> Found {
        Found {
            now: self.now.len(),
            can_pin: self.can_pin.len(),
            can_leak: self.can_leak.len(),
            leaked: self.leaked.len(),
            detached: self.detached.len(),
            namespaces: self.namespaces.len(),
        }
    }

    /// Asserts that it found exactly this.
    pub fn expect(&self, expected: Found) -> Result<()> {
        let found = self.found();
        ensure!(
            found == expected,
            "found {found:?}, expected {expected:?}: {self:#?}"
        );
        Ok(())
    }
}

impl Group {
    /// The process that stands for the workload.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.workload.process.as_ref().map(|process| process.pid)
    }
}

/// The first command of advice that begins with a word.
pub fn command_in<'a>(fixes: &'a [Fix], word: &str) -> Result<&'a str> {
    fixes
        .iter()
        .filter_map(|fix| fix.command.as_deref())
        .find(|command| command.starts_with(word))
        .with_context(|| format!("no {word} in {fixes:?}"))
}
