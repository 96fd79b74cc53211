//! Every kind of reference, on tmpfs and on overlayfs, through the target, a propagated copy and a private copy:
//! ebusy names it exactly, and accuses nobody else.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    zoo::{ROWS, Row},
};

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for row in ROWS {
        for file_system in [FileSystem::Tmpfs, FileSystem::Overlay] {
            let name = |through: &str| format!("{}::{}::{through}", row.name, file_system.name());
            tests.push(harness::test(name("target"), move || {
                blocks(row, file_system, Namespace::Same)
            }));
            tests.push(if row.copy_blocks {
                harness::test(name("propagated_copy"), move || {
                    blocks(row, file_system, Namespace::Slave)
                })
            } else {
                harness::test(name("propagated_copy"), move || {
                    does_not_block(row, file_system, Namespace::Slave)
                })
            });
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
    harness::main(tests)
}

/// One holder, one refused attempt, and one that succeeds.
fn blocks(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let scratch = Scratch::new(file_system)?;
    let watch = Watch::targets(&[scratch.path()])?;
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
    let (incidents, _) = watch.finish()?;
    expectation.check_only(&incidents)?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

/// A user of a copy that does not block: there is nothing to tell.
fn does_not_block(row: &Row, file_system: FileSystem, namespace: Namespace) -> Result<Verdict> {
    let scratch = Scratch::new(file_system)?;
    let watch = Watch::targets(&[scratch.path()])?;
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
    let (incidents, _) = watch.finish()?;
    ensure!(incidents.is_empty(), "{incidents:#?}");
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

/// A user of a private copy beside one that blocks: the first is no holder, and the umount succeeds in spite of it.
fn stands_by(row: &Row, file_system: FileSystem) -> Result<Verdict> {
    let scratch = Scratch::new(file_system)?;
    let watch = Watch::targets(&[scratch.path()])?;
    let bystander = row.hold(&scratch, Namespace::Private)?;
    let holder = Holding::start("hold-fd", Namespace::Same, &[scratch.join("second")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");

    let expectation = Expectation {
        bystanders: vec![Expected::bystander(&bystander)],
        ..Expectation::released(&scratch, vec![Expected::on_target(&holder)])
    };
    let (code, answers) = who(scratch.path())?;
    holder.release()?;
    ensure!(scratch.umount()?, "refused because of a private copy");
    bystander.release()?;
    let (incidents, _) = watch.finish()?;
    expectation.check_only(&incidents)?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}
