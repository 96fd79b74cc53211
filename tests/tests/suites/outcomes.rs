//! How incidents end: released, detached, given up, gone, still busy when ebusy stops.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::Watch,
    expect::{Expectation, Expected, Problems},
    harness::{self, Verdict},
    holder::{Helper, Holding, program},
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, refused, release, watched},
};
use rustix::mount::UnmountFlags;
use serde::Deserialize;

pub(crate) fn main() -> ExitCode {
    let tests = vec![
        // The longest of them begins first.
        harness::test("gave_up", gave_up),
        harness::test("detached", detached),
        harness::test("detached_at_once", detached_at_once),
        harness::test("released_at_once", released_at_once),
        harness::test("still_busy", still_busy),
        harness::test("gone_with_its_namespace", gone_with_its_namespace),
        harness::test("gone_with_its_mount_point", gone_with_its_mount_point),
    ];
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 4)
}

fn detached() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 2)?;
    let expectation = Expectation {
        attempts: 2,
        outcome: "detached",
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(2)])
    };
    harness::settle()?;
    ensure!(scratch.umount_with(UnmountFlags::DETACH)?, "a detach was refused");
    holding.release()?;
    expectation.check_only(&watch.finish()?.0)?;
    Ok(Verdict::Passed)
}

/// `umount X || umount -l X`, as scripts have it: the mount is gone before anybody can look.
fn detached_at_once() -> Result<Verdict> {
    ends_at_once("detached", |scratch, holding| {
        ensure!(scratch.umount_with(UnmountFlags::DETACH)?, "a detach was refused");
        holding.release()
    })
}

/// The holder lets go right after the refusal, and the next attempt succeeds.
fn released_at_once() -> Result<Verdict> {
    ends_at_once("released", |scratch, holding| {
        holding.release()?;
        ensure!(scratch.umount()?, "still busy after the release");
        Ok(())
    })
}

/// Two attempts, and an end right after: ebusy may come too late to see the holder, but reports one incident, and
/// reports it correctly.
fn ends_at_once(outcome: &str, end: impl Fn(&Scratch, Holding) -> Result<()>) -> Result<Verdict> {
    for _ in 0..5 {
        let (scratch, watch) = watched(FileSystem::Tmpfs)?;
        let holding = hold_fd(&scratch, Namespace::Same, "file")?;
        let claimed = holding.claimed.clone();
        refused(&scratch, 2)?;
        end(&scratch, holding)?;
        let (incidents, _) = watch.finish()?;
        ensure!(incidents.len() == 1, "{incidents:#?}");
        let incident = &incidents[0];
        let mut problems = Problems::default();
        problems.equal("outcome", &incident.outcome.as_deref(), &Some(outcome));
        problems.equal("attempts", &incident.attempts, &2);
        problems.equal(
            "target.path",
            &incident.target.path,
            &scratch.path().to_string_lossy(),
        );
        problems.equal("bystanders", &incident.bystanders.len(), &0);
        for holder in &incident.holders {
            let process = holder
                .process
                .as_ref()
                .map(|process| (process.pid, process.comm.as_str()));
            problems.equal("holder", &process, &Some((claimed.ready.pid, "hold-fd")));
            let found = (holder.kind.as_str(), holder.path.as_str(), holder.deleted);
            problems.equal("holder", &found, &("fd", "/file", false));
        }
        // It was refused, so no count of that attempt can be 0.
        problems.check(incident.references.counted != Some(0), || {
            "0 were counted".to_owned()
        });
        problems.into_result(incident)?;
    }
    Ok(Verdict::Passed)
}

fn still_busy() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 2)?;
    let expectation = Expectation {
        attempts: 2,
        outcome: "still_busy",
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(2)])
    };
    harness::settle()?;
    let (incidents, _) = watch.finish()?;
    release(&scratch, [holding])?;
    expectation.check_only(&incidents)?;
    Ok(Verdict::Passed)
}

fn gave_up() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 2)?;
    // 30 s of quiet, and some time to write it down.
    let incidents = watch.wait_for_incidents(1, Duration::from_secs(40))?;
    let expectation = Expectation {
        attempts: 2,
        outcome: "gave_up",
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(2)])
    };
    expectation.check_only(&incidents)?;
    release(&scratch, [holding])?;
    let (incidents, _) = watch.finish()?;
    ensure!(
        incidents.len() == 1,
        "the success after it opened another: {incidents:#?}"
    );
    Ok(Verdict::Passed)
}

/// The output of `vanisher`.
#[derive(Debug, Deserialize)]
struct Vanisher {
    pid: u32,
    fd: u32,
    mount_namespace: u32,
    refused: bool,
}

fn gone_with_its_namespace() -> Result<Verdict> {
    let directory = tempfile::Builder::new().prefix("ebusy-test-").tempdir()?;
    let watch = Watch::targets(&[directory.path()])?;
    let helper = Helper::start(&program("vanisher")?, &[directory.path()])?;
    let line = helper.line()?;
    let vanisher: Vanisher = serde_json::from_str(&line).context(line)?;
    ensure!(vanisher.refused, "{vanisher:?}");
    harness::settle()?;
    helper.finish()?;
    // No event reports this at once: ebusy has to look.
    let incidents = watch.wait_for_incidents(1, Duration::from_secs(10))?;
    let incident = &incidents[0];
    let mut problems = Problems::default();
    problems.equal("outcome", &incident.outcome.as_deref(), &Some("gone"));
    problems.equal("attempts", &incident.attempts, &1);
    problems.equal("caller", &incident.caller.pid, &vanisher.pid);
    problems.equal(
        "target",
        &incident.target.path,
        &directory.path().to_string_lossy(),
    );
    problems.equal(
        "namespace",
        &incident.target.mount_namespace,
        &Some(vanisher.mount_namespace),
    );
    // It blocked itself. It may have been gone before anybody looked, but then nobody else is named.
    for holder in &incident.holders {
        let process = holder.process.as_ref().map(|process| process.pid);
        problems.equal(
            "holder",
            &(process, holder.fd),
            &(Some(vanisher.pid), Some(vanisher.fd)),
        );
    }
    problems.into_result(incident)?;
    watch.finish()?;
    Ok(Verdict::Passed)
}

/// Somebody removes the mount point in a namespace where nothing is mounted there: the mount goes everywhere.
fn gone_with_its_mount_point() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let expectation = Expectation {
        outcome: "gone",
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding)])
    };
    harness::settle()?;
    let remover = Helper::start(&program("mountpoint-remover")?, &[scratch.path()])?;
    remover.line()?;
    remover.finish()?;
    ensure!(scratch.umount().is_err(), "it is still mounted");
    let incidents = watch.wait_for_incidents(1, Duration::from_secs(10))?;
    expectation.check_only(&incidents)?;
    watch.finish()?;
    holding.release()?;
    Ok(Verdict::Passed)
}
