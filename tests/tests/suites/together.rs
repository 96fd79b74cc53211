//! Several causes at once, of different kinds: pairs, triples, all that there are, one after the other, and many in one
//! process. The books balance with each, and the remaining causes are reported when one of them has gone.
//!
//! One `ebusy watch` serves all of them.

use std::{
    ffi::OsStr,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, below, who},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE, Skip},
    namespace::Namespace,
    pause,
    scratch::{FileSystem, Scratch},
    steps::{refused, release, until_references},
    zoo::{ROWS, Row},
};
use tempfile::TempDir;

/// Distance of a pair's members in the table: kinds of one family are neighbours.
const STRIDE: usize = 11;

/// Tests at a time: most of it is waiting.
const THREADS: usize = 2;

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for file_system in [FileSystem::Tmpfs, FileSystem::Overlay] {
        let rows = rows(file_system);
        for (index, first) in rows.iter().copied().enumerate() {
            let [second, third] = [1, 2].map(|step| rows[(index + step * STRIDE) % rows.len()]);
            // Every kind is in two pairs, on one file system or the other.
            if (index % 2 == 0) == (file_system == FileSystem::Tmpfs) {
                let name = format!("pair::{}::{}::{}", file_system.name(), first.name, second.name);
                tests.push(harness::test(name, move || pair(file_system, first, second)));
            }
            // A child mount goes to copies as well, and those are skipped then.
            let stays = first.copy_blocks && second.copy_blocks && third.bystander;
            if index % 3 == 0 && stays {
                let names = [first.name, second.name, third.name].join("::");
                let name = format!("triple::{}::{names}", file_system.name());
                tests.push(harness::test(name, move || {
                    triple(file_system, [first, second, third])
                }));
            }
        }
        tests.push(harness::test(format!("all::{}", file_system.name()), move || {
            all(file_system)
        }));
        tests.push(harness::test(
            format!("one_after_the_other::{}", file_system.name()),
            move || one_after_the_other(file_system),
        ));
        tests.push(harness::test(
            format!("one_process::{}", file_system.name()),
            move || one_process(file_system),
        ));
    }
    let status = harness::main_with(tests, THREADS);
    match nothing_else() {
        Ok(()) => status,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The kinds that can stand beside others: the work of some others would end the rest.
fn rows(file_system: FileSystem) -> Vec<&'static Row> {
    let fits = |row: &&Row| row.file_systems.contains(&file_system) && !row.alone;
    ROWS.iter().filter(fits).collect()
}

/// The watch, and the directory below which everything is mounted.
struct Shared {
    watch: Watch,
    parent: TempDir,
    /// Expected incidents.
    incidents: usize,
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

fn shared<T>(run: impl FnOnce(&mut Shared) -> Result<T>) -> Result<T> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        let parent = tempfile::Builder::new().prefix("ebusy-together-").tempdir()?;
        let targets = parent.path().join("*/target").into_os_string();
        let watch = Watch::start(&["-vv".into(), "--target".into(), targets])?;
        *guard = Some(Shared {
            watch,
            parent,
            incidents: 0,
        });
    }
    run(guard.as_mut().context("it has just been started")?)
}

fn scratch(file_system: FileSystem) -> Result<Scratch> {
    shared(|shared| Scratch::within(shared.parent.path(), OsStr::new("target"), file_system))
}

/// There is exactly the incident that is expected. Other tests check when a file was opened: on a loaded machine ebusy
/// may miss an open right after the mount was made.
fn told(expectation: &Expectation<'_>) -> Result<Verdict> {
    shared(|shared| {
        shared.incidents += 1;
        let incident = shared
            .watch
            .wait_for_incident(expectation.scratch.path(), PATIENCE)?;
        let mut expectation = Expectation {
            bursts: None,
            lost_events: incident.lost_events,
            ..expectation.clone()
        };
        for holder in &mut expectation.holders {
            holder.history = false;
        }
        expectation.check(&incident)?;
        Ok(Verdict::Passed)
    })
}

/// Waits until an umount was refused, and ebusy has looked for the reason.
fn looked_at(scratch: &Scratch) -> Result<()> {
    let looks = || shared(|shared| Ok(shared.watch.looks_at(scratch.mount_id())));
    let before = looks()?;
    refused(scratch, 1)?;
    pause::until(PATIENCE, || Ok((looks()? != before).then_some(())))
        .with_context(|| format!("nobody looks at {}", scratch.path().display()))
}

/// Two causes, then one, then none.
fn pair(file_system: FileSystem, first: &Row, second: &Row) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let leaves = first.hold_apart(&scratch, Namespace::Same, "first", false)?;
    let stays = second.hold_apart(&scratch, Namespace::Same, "second-one", true)?;
    looked_at(&scratch)?;
    let former = Expected::on_target(&leaves).former();
    first.release(&scratch, leaves)?;
    looked_at(&scratch)?;
    let expectation = Expectation {
        attempts: 2,
        ..Expectation::released(
            &scratch,
            vec![Expected::on_target(&stays).for_attempts(2), former],
        )
    };
    second.release(&scratch, stays)?;
    ensure!(scratch.umount()?, "still busy after the release");
    told(&expectation)
}

/// One on the target, one on a copy that remains, one on a copy that does not block.
fn triple(file_system: FileSystem, [on_target, on_copy, beside]: [&Row; 3]) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let target = on_target.hold_apart(&scratch, Namespace::Same, "first", false)?;
    let copy = on_copy.hold_apart(&scratch, Namespace::Slave, "second-one", true)?;
    let bystander = beside.hold_apart(&scratch, Namespace::Private, "third-one", true)?;
    looked_at(&scratch)?;
    let expectation = Expectation {
        bystanders: vec![Expected::bystander(&bystander)],
        ..Expectation::released(
            &scratch,
            vec![
                Expected::on_target(&target),
                Expected::on_copy(&copy).at_once().remaining(),
            ],
        )
    };
    on_target.release(&scratch, target)?;
    on_copy.release(&scratch, copy)?;
    ensure!(scratch.umount()?, "still busy after the release");
    beside.release(&scratch, bystander)?;
    told(&expectation)
}

/// Every kind that this kernel has on one mount.
fn all(file_system: FileSystem) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let mut holdings = Vec::new();
    for row in rows(file_system) {
        let at_once = !holdings.is_empty();
        match row.hold_apart(&scratch, Namespace::Same, row.name, at_once) {
            Ok(holding) => holdings.push(holding),
            Err(error) if error.is::<Skip>() => {}
            Err(error) => return Err(error).context(row.name),
        }
    }
    looked_at(&scratch)?;
    let (code, answers) = who(scratch.path())?;
    let expectation = Expectation::released(&scratch, holdings.iter().map(Expected::on_target).collect());
    for holding in holdings {
        holding.release()?;
    }
    until_references(&scratch, 0)?;
    ensure!(scratch.umount()?, "still busy after the release");
    told(&expectation)?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

/// At every attempt the cause is of another kind.
fn one_after_the_other(file_system: FileSystem) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let mut holders = Vec::new();
    for row in rows(file_system).into_iter().step_by(6) {
        let holding = match row.hold_apart(&scratch, Namespace::Same, row.name, !holders.is_empty()) {
            Ok(holding) => holding,
            Err(error) if error.is::<Skip>() => continue,
            Err(error) => return Err(error).context(row.name),
        };
        looked_at(&scratch)?;
        holders.push(Expected::on_target(&holding));
        row.release(&scratch, holding)?;
    }
    let last = holders.pop().context("there are some")?;
    let attempts = 1 + holders.len() as u64;
    let holders = holders.into_iter().map(Expected::former).chain([last]).collect();
    ensure!(scratch.umount()?, "still busy after the release");
    told(&Expectation {
        attempts,
        ..Expectation::released(&scratch, holders)
    })
}

/// One process blocks in several ways at once: each is reported.
fn one_process(file_system: FileSystem) -> Result<Verdict> {
    let scratch = scratch(file_system)?;
    let paths = ["file", "second", "third", "dir", "socket"].map(|name| scratch.join(name));
    let holding = Holding::start("hold-several", Namespace::Same, &paths)?;
    looked_at(&scratch)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]);
    release(&scratch, [holding])?;
    told(&expectation)
}

/// Asserts that ebusy reported exactly the expected incidents.
fn nothing_else() -> Result<()> {
    let Some(shared) = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Ok(());
    };
    let (incidents, _) = shared.watch.finish()?;
    let incidents = below(shared.parent.path(), incidents);
    let paths: Vec<_> = incidents.iter().map(|incident| &incident.target.path).collect();
    ensure!(
        incidents.len() == shared.incidents,
        "{} expected: {paths:#?}",
        shared.incidents
    );
    Ok(())
}
