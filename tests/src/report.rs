//! The fields of ebusy's JSON, schema 1, that tests read. [`schema::read`] has checked all of it.

#![expect(missing_docs, reason = "docs/schema describes the fields")]

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{harness::in_machine, schema};

/// All refused attempts on one target.
#[derive(Debug, Clone, Deserialize)]
pub struct Incident {
    pub operation: String,
    pub reason: Option<String>,
    pub started: String,
    pub ended: Option<String>,
    pub outcome: Option<String>,
    pub attempts: u64,
    pub bursts: u64,
    pub flags: Vec<String>,
    pub caller: Process,
    pub callers: Vec<Caller>,
    pub target: Target,
    pub references: Books,
    pub holders: Vec<Holder>,
    pub candidates: Vec<Holder>,
    pub bystanders: Vec<Holder>,
    pub probe: String,
    pub lost_events: u64,
    #[serde(default)]
    pub noise: Vec<Noise>,
    pub fixes: Vec<Fix>,
    pub slow: Option<Slow>,
    pub retry: Option<Retry>,
}

/// A source that did more than ebusy records of one.
#[derive(Debug, Clone, Deserialize)]
pub struct Noise {
    pub by: Process,
    pub lost: u64,
}

/// The phases of a slow umount.
#[derive(Debug, Clone, Deserialize)]
pub struct Slow {
    pub answered: Option<String>,
    pub error: Option<String>,
    pub looks: u64,
    pub waits: Vec<Wait>,
}

/// A place where it was seen waiting.
#[derive(Debug, Clone, Deserialize)]
pub struct Wait {
    pub phase: String,
    pub waits_for: Option<String>,
    pub looks: u64,
    pub stack: Vec<String>,
}

/// A time by which it had already failed.
#[derive(Debug, Clone, Deserialize)]
pub struct Since {
    pub time: String,
    pub source: String,
}

/// The next expected attempt.
#[derive(Debug, Clone, Deserialize)]
pub struct Retry {
    pub by: String,
    pub source: String,
    pub pauses: Vec<f64>,
    pub next: Option<String>,
    pub within: Option<u64>,
}

/// The answer of `who`.
#[derive(Debug, Clone, Deserialize)]
pub struct Who {
    pub target: Target,
    #[serde(default)]
    pub leftover: bool,
    pub references: Books,
    pub holders: Vec<Holder>,
    pub candidates: Vec<Holder>,
    pub bystanders: Vec<Holder>,
    pub probe: String,
    pub since: Option<Since>,
    pub fixes: Vec<Fix>,
}

/// A fix.
#[derive(Debug, Clone, Deserialize)]
pub struct Fix {
    pub text: String,
    pub action: String,
    pub command: Option<String>,
}

impl Fix {
    /// The text for people: the words, then the command.
    #[must_use]
    pub fn reads(&self) -> String {
        match &self.command {
            Some(command) => format!("{}: {command}", self.text),
            None => self.text.clone(),
        }
    }
}

/// Runs a command as people paste it. The shell of a machine is busybox, which prefers its own `nsenter` and `umount`
/// to the installed ones, and its own have no `-N`: there the words are run without a shell.
#[must_use]
pub fn pasted(command: &str) -> Command {
    let mut words = command.split(' ');
    if in_machine() && words.next() == Some("nsenter") {
        let mut nsenter = Command::new("/bin/nsenter");
        nsenter.args(words);
        nsenter
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        shell
    }
}

/// The command that unmounts the copy of a mount in the namespace of a process, without a program of its image.
#[must_use]
pub fn umount_in(pid: u32, path: &Path) -> String {
    format!("nsenter -t {pid} -p umount -i -n -N {pid} {}", path.display())
}

/// A process that tried.
#[derive(Debug, Clone, Deserialize)]
pub struct Caller {
    pub pid: u32,
    pub comm: String,
    pub attempts: u64,
}

/// The mount.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    pub path: String,
    pub path_base64: Option<String>,
    pub mount_id: Option<u32>,
    pub fs_type: Option<String>,
    pub source: Option<String>,
    pub mount_namespace: Option<u32>,
    pub propagation: Option<String>,
    pub container: Option<Container>,
}

/// Counted = explained + unexplained.
#[derive(Debug, Clone, Deserialize)]
pub struct Books {
    pub counted: Option<u64>,
    pub explained: u64,
    pub unexplained: Option<u64>,
    pub overexplained: u64,
    pub remaining: Option<u64>,
    pub sampled_at: Option<String>,
    pub changed_during_snapshot: Option<bool>,
    #[serde(default)]
    pub gaps: Vec<String>,
}

/// One owner of references.
#[derive(Debug, Clone, Deserialize)]
pub struct Holder {
    pub kind: String,
    pub also: Vec<String>,
    pub refs: u64,
    pub process: Option<Process>,
    pub fd: Option<u32>,
    pub access: Option<String>,
    pub held_by: Option<String>,
    pub shared_with: Vec<Sharer>,
    pub path: String,
    pub path_base64: Option<String>,
    pub deleted: bool,
    pub seen_as: Option<String>,
    pub mount_id: Option<u32>,
    pub mount_namespace: Option<u32>,
    pub through: String,
    pub counted: bool,
    pub opened: Option<String>,
    pub opened_by: Option<Process>,
    pub entered: Option<Entered>,
    pub attempts_blocked: u64,
    pub evidence: Vec<String>,
}

/// How a holder entered its mount namespace.
#[derive(Debug, Clone, Deserialize)]
pub struct Entered {
    pub time: Option<String>,
    pub operation: String,
    pub namespace: u32,
    pub from: Option<u32>,
    pub container: Option<Container>,
    pub by: Option<EnteredBy>,
}

/// The ancestor that entered.
#[derive(Debug, Clone, Deserialize)]
pub struct EnteredBy {
    pub pid: u32,
    pub comm: String,
}

/// A process that shares a reference.
#[derive(Debug, Clone, Deserialize)]
pub struct Sharer {
    pub pid: u32,
    pub fd: Option<u32>,
}

/// A process.
#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub tid: Option<u32>,
    pub comm: String,
    pub cmdline: Option<Vec<String>>,
    pub uid: Option<u32>,
    pub start_time: Option<String>,
    pub mount_namespace: Option<u32>,
    pub requester: Option<Requester>,
    pub container: Option<Container>,
}

/// The ancestor on whose behalf a caller acted.
#[derive(Debug, Clone, Deserialize)]
pub struct Requester {
    pub pid: u32,
    pub comm: String,
}

/// A container.
#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    pub runtime: Option<String>,
    pub id: String,
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub pod_namespace: Option<String>,
    pub image: Option<String>,
    pub owner: Option<Owner>,
    pub privileged: Option<bool>,
    pub host_pid: Option<bool>,
    pub host_paths: Vec<String>,
    pub host_mounts: Vec<HostMount>,
    #[serde(default)]
    pub unproven: bool,
}

/// The controller of a pod.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Owner {
    pub kind: String,
    pub name: String,
}

/// A path of the host in a container.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct HostMount {
    pub path: String,
    pub destination: Option<String>,
    pub propagation: Option<String>,
}

impl Target {
    /// The bytes of the path.
    pub fn path_bytes(&self) -> Result<Vec<u8>> {
        bytes(&self.path, self.path_base64.as_deref())
    }
}

impl Holder {
    /// The bytes of the path.
    pub fn path_bytes(&self) -> Result<Vec<u8>> {
        bytes(&self.path, self.path_base64.as_deref())
    }
}

fn bytes(text: &str, base64: Option<&str>) -> Result<Vec<u8>> {
    match base64 {
        Some(base64) => STANDARD.decode(base64).context("path_base64"),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// A time of the schema (RFC 3339), in nanoseconds since the epoch.
pub fn nanoseconds(time: &str) -> Result<u64> {
    let time: jiff::Timestamp = time.parse().with_context(|| time.to_owned())?;
    u64::try_from(time.as_nanosecond()).context("a time after 1970")
}

/// One incident for each line.
pub fn incidents(json: &str) -> Result<Vec<Incident>> {
    schema::read_lines(json)
}
