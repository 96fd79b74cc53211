//! The holders that peers see: fuser, lsof and lsfd, each called as its manual says for a mount. A measurement for
//! `docs/kinds.md`, beside ebusy's own; only its preparation can fail.

use std::{
    collections::BTreeSet,
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebusy_tests::{
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    pause,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};

/// How long a peer may take: they are known to hang.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a killed one may take to end: in a call that no signal interrupts, it does not end.
const END: Duration = Duration::from_secs(2);

/// How often one may hang before it is skipped.
const HANGS_MAX: u32 = 2;

/// A program that lists the users of a mount.
struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: fn(&Scratch) -> Vec<String>,
    hangs: AtomicU32,
}

/// The output of one.
enum Answer {
    NotInstalled,
    Hangs,
    Pids(BTreeSet<u32>),
}

static PEERS: [Peer; 3] = [
    Peer {
        name: "fuser -m",
        program: "fuser",
        arguments: |scratch| vec!["-m".to_owned(), scratch.path().display().to_string()],
        hangs: AtomicU32::new(0),
    },
    Peer {
        name: "lsof +f --",
        program: "lsof",
        arguments: |scratch| {
            let path = scratch.path().display().to_string();
            ["-t", "+f", "--", &path].map(str::to_owned).to_vec()
        },
        hangs: AtomicU32::new(0),
    },
    Peer {
        name: "lsfd -Q MNTID==",
        program: "lsfd",
        arguments: |scratch| {
            let filter = format!("MNTID == {}", scratch.mount_id());
            ["--noheadings", "-o", "PID", "-Q", &filter]
                .map(str::to_owned)
                .to_vec()
        },
        hangs: AtomicU32::new(0),
    },
];

/// One of this many kinds is measured unless all tests shall run: a peer takes seconds, and none of them changes with
/// ebusy.
const SHORT: usize = 8;

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    let step = if harness::is_full() { 1 } else { SHORT };
    for row in ROWS.iter().step_by(step) {
        for file_system in row.file_systems.iter().copied() {
            let name = format!("{}::{}", row.name, file_system.name());
            tests.push(harness::test(name, move || measure(row, file_system)));
        }
    }
    harness::main(tests)
}

fn measure(row: &Row, file_system: FileSystem) -> Result<Verdict> {
    let what = format!("{}::{}", row.name, file_system.name());
    for (namespace, blocks) in [(Namespace::Same, true), (Namespace::Private, false)] {
        let scratch = Scratch::new(file_system)?;
        let holding = row.hold(&scratch, namespace)?;
        let owners = owners(&holding);
        for peer in &PEERS {
            let result = match (peer.ask(&scratch)?, blocks) {
                (Answer::NotInstalled, _) => "not installed",
                (Answer::Hangs, _) => "hangs",
                (Answer::Pids(found), true) if !owners.is_empty() && owners.is_subset(&found) => "found",
                (Answer::Pids(_), true) => "missed",
                // Nobody must be named for a private copy: it does not block.
                (Answer::Pids(found), false) if found.intersection(&owners).next().is_some() => "accused",
                (Answer::Pids(_), false) => "not accused",
            };
            println!("\nmeasured: {what}: {}: {result}", peer.name);
        }
        row.release(&scratch, holding)?;
    }
    Ok(Verdict::Passed)
}

/// The processes that must be named: the first of each reference.
fn owners(holding: &Holding) -> BTreeSet<u32> {
    let claims = &holding.claimed.ready.claims;
    claims
        .iter()
        .filter_map(|claim| claim.owners.first())
        .map(|owner| owner.pid)
        .collect()
}

impl Peer {
    /// Runs it, unless it has hung before: on a host where something does not answer, it would hang each time.
    fn ask(&self, scratch: &Scratch) -> Result<Answer> {
        if self.hangs.load(Ordering::Relaxed) >= HANGS_MAX {
            return Ok(Answer::Hangs);
        }
        let mut command = Command::new(self.program);
        command.args((self.arguments)(scratch));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = match child.stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Answer::NotInstalled),
            Err(error) => return Err(error).context(self.name),
        };
        if !ends_within(&mut child, LIMIT)? {
            self.hangs.fetch_add(1, Ordering::Relaxed);
            child.kill()?;
            // It may end or not: it waits for something that is not ours, and nobody else waits for it.
            ends_within(&mut child, END)?;
            return Ok(Answer::Hangs);
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = std::process::id();
        let pids = text.split_whitespace().filter_map(|word| word.parse().ok());
        Ok(Answer::Pids(pids.filter(|pid| *pid != own).collect()))
    }
}

fn ends_within(child: &mut Child, limit: Duration) -> Result<bool> {
    let ended = pause::until(limit, || Ok(child.try_wait()?)).is_ok();
    Ok(ended || child.try_wait()?.is_some())
}
