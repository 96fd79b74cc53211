//! Every kind of reference, on tmpfs and on overlayfs, through the target, a propagated copy and a private copy:
//! ebusy names it exactly, and accuses nobody else.
//!
//! One `ebusy watch` serves all of them, as it does on a host; the last test sees that it told nothing else.

use std::{
    ffi::OsStr,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};
use tempfile::TempDir;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for row in ROWS {
        for file_system in [FileSystem::Tmpfs, FileSystem::Overlay] {
            let name = |through: &str| format!("{}::{}::{through}", row.name, file_system.name());
            tests.push(harness::test(name("target"), move || {
                blocks(row, file_system, Namespace::Same)
            }));
            tests.push(harness::test(name("propagated_copy"), move || {
                if row.copy_blocks {
                    blocks(row, file_system, Namespace::Slave)
                } else {
                    does_not_block(row, file_system, Namespace::Slave)
                }
            }));
            tests.push(harness::test(name("private_copy"), move || {
                does_not_block(row, file_system, Namespace::Private)
            }));
            if row.bystander {
                tests.push(harness::test(name("bystander"), move || {
                    stands_by(row, file_system)
                }));
            }
        }
    }
    tests.push(harness::test("nothing_else", nothing_else));
    let status = harness::main(tests);
    // It is a static, which nobody drops.
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
    status
}

/// The watch, and the directory below which everything is mounted.
struct Shared {
    watch: Watch,
    parent: TempDir,
    /// Incidents that there are to be.
    incidents: usize,
    /// What it had lost when it told the last of them.
    lost_events: u64,
}

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
        });
    }
    run(guard.as_mut().context("it has just been started")?)
}

fn scratch(file_system: FileSystem) -> Result<Scratch> {
    shared(|shared| Scratch::within(shared.parent.path(), OsStr::new("target"), file_system))
}

/// There is exactly the incident that is expected.
fn told(expectation: &Expectation<'_>) -> Result<()> {
    shared(|shared| {
        shared.incidents += 1;
        let path = expectation.scratch.path();
        let incident = shared.watch.wait_for_incident(path, PATIENCE)?;
        // One test fails for a loss, not all that follow.
        let lost_events = std::mem::replace(&mut shared.lost_events, incident.lost_events);
        Expectation {
            lost_events,
            ..expectation.clone()
        }
        .check(&incident)
    })
}

/// One holder, one refused attempt, and one that succeeds.
fn blocks(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let holding = row.hold(&scratch, namespace)?;
    ensure!(!scratch.umount()?, "the umount was not refused");

    let expected = match namespace {
        Namespace::Same => Expected::on_target(&holding),
        _ => Expected::on_copy(&holding),
    };
    let expectation = Expectation::released(&scratch, vec![expected]);
    let (code, answers) = who(scratch.path())?;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    told(&expectation)?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

/// A user of a copy that does not block: there is nothing to tell.
fn does_not_block(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
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
    let (code, answers) = who(scratch.path())?;
    ensure!(scratch.umount()?, "the umount was refused");
    holding.release()?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

/// A user of a private copy beside one that blocks: the first is no holder, and the umount succeeds in spite of it.
fn stands_by(row: &Row, file_system: FileSystem) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let bystander = row.hold(&scratch, Namespace::Private)?;
    let holder = Holding::start("hold-fd", Namespace::Same, &[scratch.join("second")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    harness::settle();

    let expectation = Expectation {
        bystanders: vec![Expected::bystander(&bystander)],
        ..Expectation::released(&scratch, vec![Expected::on_target(&holder)])
    };
    holder.release()?;
    ensure!(scratch.umount()?, "refused because of a private copy");
    bystander.release()?;
    told(&expectation)?;
    Ok(Verdict::Passed)
}

/// Nothing was told but what was to be.
fn nothing_else() -> Result<Verdict> {
    let Some(shared) = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Ok(Verdict::Passed);
    };
    let (incidents, log) = shared.watch.finish()?;
    println!("\n{log}");
    let paths: Vec<_> = incidents.iter().map(|incident| &incident.target.path).collect();
    ensure!(
        incidents.len() == shared.incidents,
        "{} expected: {paths:#?}",
        shared.incidents
    );
    Ok(Verdict::Passed)
}
