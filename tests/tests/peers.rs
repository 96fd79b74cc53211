//! What others see of the same holders: fuser, lsof and lsfd, each asked in the way its manual gives for a mount. A
//! measurement for `docs/kinds.md`, beside ebusy's own; nothing of it can fail but its preparation.

use std::{
    collections::BTreeSet,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebusy_tests::{
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};

/// How long a peer may take: they are known to hang.
const LIMIT: Duration = Duration::from_secs(20);

/// A program that is asked who uses a mount.
struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: fn(&Scratch) -> Vec<String>,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "fuser -m",
        program: "fuser",
        arguments: |scratch| vec!["-m".to_owned(), scratch.path().display().to_string()],
    },
    Peer {
        name: "lsof +f --",
        program: "lsof",
        arguments: |scratch| {
            let path = scratch.path().display().to_string();
            ["-t", "+f", "--", &path].map(str::to_owned).to_vec()
        },
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
    },
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for row in ROWS {
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
            let found = peer.ask(&scratch)?;
            let result = match (found, blocks) {
                (None, _) => "not installed",
                (Some(found), true) if !owners.is_empty() && owners.is_subset(&found) => "found",
                (Some(_), true) => "missed",
                // Of a private copy nobody is to be named: it does not block.
                (Some(found), false) if found.intersection(&owners).next().is_some() => "accused",
                (Some(_), false) => "not accused",
            };
            println!("\nmeasured: {what}: {}: {result}", peer.name);
        }
        row.release(holding)?;
    }
    Ok(Verdict::Passed)
}

/// The processes that are to be named: the first of each reference.
fn owners(holding: &Holding) -> BTreeSet<u32> {
    let claims = &holding.claimed.ready.claims;
    claims
        .iter()
        .filter_map(|claim| claim.owners.first())
        .map(|owner| owner.pid)
        .collect()
}

impl Peer {
    /// The processes that it names; `None` if it is not there.
    fn ask(&self, scratch: &Scratch) -> Result<Option<BTreeSet<u32>>> {
        let mut command = Command::new(self.program);
        command.args((self.arguments)(scratch));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = match child.stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(self.name),
        };
        let deadline = Instant::now() + LIMIT;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = std::process::id();
        let pids = text.split_whitespace().filter_map(|word| word.parse().ok());
        Ok(Some(pids.filter(|pid| *pid != own).collect()))
    }
}
