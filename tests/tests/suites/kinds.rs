//! Every kind of reference, on tmpfs and on overlayfs, through the target, a propagated copy, the copy of a peer and a
//! private copy: it makes the umount fail exactly where and as long as the kernel's rules say so, ebusy names it
//! exactly, and blames nobody else.
//!
//! One `ebusy watch` serves all of them, as it does on a host; in the end it must have reported nothing else.

use std::{
    ffi::OsStr,
    process::ExitCode,
    sync::{Mutex, PoisonError, RwLock},
};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    ebusy::{Watch, below, who},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    namespace::Namespace,
    pairs,
    report::Who,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};
use libtest_mimic::Trial;
use tempfile::TempDir;

/// Tests at a time: most of it is waiting. A tier that finds the refused mount by its path has to find it in time. A
/// kernel that preempts (7.2) skips a run of a program while another run of it is preempted on that CPU: the higher the
/// load, the more often.
fn threads() -> usize {
    let preempts = std::env::var("EBUSY_VM").is_ok_and(|kernel| kernel.starts_with('7'));
    match std::env::var("EBUSY_PROBE").as_deref() {
        _ if preempts => 1,
        Ok("fentry") => 6,
        Ok("kprobe") => 1,
        _ => 3,
    }
}

/// A way to put a kind of reference on the mount, with the expected result.
struct Way {
    name: &'static str,
    run: fn(&Row, FileSystem) -> Result<Verdict>,
}

/// The ways that every machine runs; the last one is for rows that can be bystanders.
const WAYS: [Way; 4] = [
    Way {
        name: "target",
        run: |row, file_system| blocks(row, file_system, Namespace::Same),
    },
    Way {
        name: "propagated_copy",
        run: |row, file_system| {
            if row.copy_blocks {
                blocks(row, file_system, Namespace::Slave)
            } else {
                does_not_block(row, file_system, Namespace::Slave)
            }
        },
    },
    Way {
        name: "private_copy",
        run: |row, file_system| does_not_block(row, file_system, Namespace::Private),
    },
    Way {
        name: "bystander",
        run: stands_by,
    },
];

/// The kernel treats a peer's copy as that of a slave: machines are spared the time.
const PEER: Way = Way {
    name: "peer",
    run: |row, file_system| blocks(row, file_system, Namespace::Shared),
};

fn test(row: &'static Row, file_system: FileSystem, way: &Way) -> Trial {
    let run = way.run;
    let name = format!("{}::{}::{}", row.name, file_system.name(), way.name);
    harness::test(name, move || {
        // Those that run alone wait for the others, and they for those.
        let (_together, _alone);
        if row.alone {
            _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _together = ALONE.read().unwrap_or_else(PoisonError::into_inner);
        }
        run(row, file_system)
    })
}

fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for (turn, row) in ROWS.iter().enumerate() {
        let ways = if row.bystander { &WAYS[..] } else { &WAYS[..3] };
        for (index, file_system) in row.file_systems.iter().enumerate() {
            let of_row = (index, row.file_systems.len());
            let here = ways
                .iter()
                .enumerate()
                .filter(|(way, _)| pairs::runs(turn, of_row, (*way, ways.len())));
            tests.extend(here.map(|(_, way)| test(row, *file_system, way)));
            if !harness::in_machine() {
                tests.push(test(row, *file_system, &PEER));
            }
        }
    }
    tests
}

pub(crate) fn main() -> ExitCode {
    let status = harness::main_with(tests(), threads());
    match nothing_else() {
        Ok(()) => status,
        Err(error) => {
            // The reason comes last: the report of a run that broke down shows the end of its output.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The watch, and the directory below which everything is mounted.
struct Shared {
    watch: Watch,
    parent: TempDir,
    /// Expected incidents.
    incidents: usize,
    /// The largest loss at the time of one of them.
    lost_events: u64,
    /// Incidents that may lack a history, because of losses while their test ran: few.
    excused: usize,
}

/// Held for writing by a test that runs alone.
static ALONE: RwLock<()> = RwLock::new(());

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

fn shared<T>(run: impl FnOnce(&mut Shared) -> Result<T>) -> Result<T> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        let parent = tempfile::Builder::new().prefix("ebusy-kinds-").tempdir()?;
        let watch = Watch::targets(&[parent.path().join("*/target")])?;
        *guard = Some(Shared {
            watch,
            parent,
            incidents: 0,
            lost_events: 0,
            excused: 0,
        });
    }
    run(guard.as_mut().context("it has just been started")?)
}

/// A mount, and the known losses before anything was opened on it.
fn scratch(file_system: FileSystem) -> Result<(Scratch, u64)> {
    shared(|shared| {
        let scratch = Scratch::within(shared.parent.path(), OsStr::new("target"), file_system)?;
        Ok((scratch, shared.lost_events))
    })
}

/// There is exactly the incident that is expected.
fn told(expectation: &Expectation<'_>, lost_before: u64) -> Result<()> {
    shared(|shared| {
        shared.incidents += 1;
        let path = expectation.scratch.path();
        let incident = shared.watch.wait_for_incident(path, PATIENCE)?;
        // From Linux 5.12 on the kernel skips a run of a program that is preempted on the same CPU (kernel fact 19): that
        // is counted, and may have cost the history of an opening, but nothing of what a snapshot finds.
        // Others run beside this one: what matters is whether something was lost while it ran.
        shared.lost_events = shared.lost_events.max(incident.lost_events);
        let mut expectation = Expectation {
            lost_events: incident.lost_events,
            ..expectation.clone()
        };
        if incident.lost_events > lost_before {
            shared.excused += 1;
            for holder in &mut expectation.holders {
                holder.history = false;
            }
        }
        expectation.check(&incident)
    })
}

/// The answer of `who`. In a machine it takes a second: there only the target is checked, and not again at the lower
/// tiers, since it waits for no refusal and loads the same programs at all of them.
fn asked(scratch: &Scratch, namespace: Namespace) -> Result<Option<(i32, Vec<Who>)>> {
    let first = std::env::var("EBUSY_PROBE").as_deref() == Ok("fentry");
    if harness::in_machine() && !(first && namespace == Namespace::Same) {
        return Ok(None);
    }
    who(scratch.path()).map(Some)
}

/// One holder, one refused attempt, and one that succeeds.
fn blocks(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let (scratch, lost) = scratch(file_system)?;
    let holding = row.hold(&scratch, namespace)?;
    ensure!(!scratch.umount()?, "the umount was not refused");

    let expected = match namespace {
        Namespace::Same => Expected::on_target(&holding),
        Namespace::Shared if !row.copy_blocks => Expected::appeared_on_target(&holding, &scratch),
        _ => Expected::on_copy(&holding),
    };
    let expectation = Expectation::released(&scratch, vec![expected]);
    let answer = asked(&scratch, namespace)?;
    if answer.is_none() {
        // Else that took long enough for the watch to look.
        harness::settle()?;
    }
    row.release(&scratch, holding)?;
    ensure!(scratch.umount()?, "still busy after the release");
    told(&expectation, lost)?;
    if let Some((code, answers)) = answer {
        expectation.check_who(code, &answers).context("who")?;
    }
    Ok(Verdict::Passed)
}

/// A user of a copy that does not block: there is nothing to tell.
fn does_not_block(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let (scratch, _) = scratch(file_system)?;
    let holding = row.hold(&scratch, namespace)?;

    let bystanders = if row.bystander {
        vec![Expected::bystander(&holding)]
    } else {
        Vec::new()
    };
    let expectation = Expectation {
        bystanders,
        ..Expectation::released(&scratch, Vec::new())
    };
    let answer = asked(&scratch, namespace)?;
    ensure!(scratch.umount()?, "the umount was refused");
    row.release(&scratch, holding)?;
    if let Some((code, answers)) = answer {
        expectation.check_who(code, &answers).context("who")?;
    }
    Ok(Verdict::Passed)
}

/// A user of a private copy beside a holder: the user is no holder, and the umount succeeds in spite of it.
fn stands_by(row: &Row, file_system: FileSystem) -> Result<Verdict> {
    let (scratch, lost) = scratch(file_system)?;
    let bystander = row.hold(&scratch, Namespace::Private)?;
    let holder = Holding::start("hold-fd", Namespace::Same, &[scratch.join("second")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    harness::settle()?;

    let expectation = Expectation {
        bystanders: vec![Expected::bystander(&bystander)],
        ..Expectation::released(&scratch, vec![Expected::on_target(&holder)])
    };
    holder.release()?;
    ensure!(scratch.umount()?, "refused because of a private copy");
    row.release(&scratch, bystander)?;
    told(&expectation, lost)?;
    Ok(Verdict::Passed)
}

/// Asserts that ebusy reported exactly the expected incidents.
fn nothing_else() -> Result<()> {
    let Some(shared) = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Ok(());
    };
    let (incidents, log) = shared.watch.finish()?;
    let mut incidents = below(shared.parent.path(), incidents);
    // A test that only took long: that depends on the load of the machine.
    incidents.retain(|incident| incident.operation != "slow_umount");
    let paths: Vec<_> = incidents.iter().map(|incident| &incident.target.path).collect();
    let (told, expected, excused) = (incidents.len(), shared.incidents, shared.excused);
    if told == expected && excused <= expected / 4 {
        return Ok(());
    }
    // Its lines about each catching up are of no use here.
    for line in log
        .lines()
        .filter(|line| !line.starts_with("now: ") && !line.starts_with("still busy: "))
    {
        eprintln!("{line}");
    }
    eprintln!("told: {paths:#?}");
    bail!("{told} incidents, {expected} expected; something was lost in {excused} of their tests")
}
