//! The ledger of open files: momentary holders, files that are in no table, and losses of the event ring.

use std::{fs::File, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    pause,
    report::Incident,
    scratch::FileSystem,
    steps::{PAUSE, hold_fd, refused, release, watched},
};
use rustix::process::{Pid, Signal, kill_process};

/// Opens that no ring has room for.
const FLOOD: u32 = 60_000;

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for file_system in [FileSystem::Tmpfs, FileSystem::Overlay] {
        let name = |test: &str| format!("{test}::{}", file_system.name());
        tests.extend([
            harness::test(name("holders_of_a_moment"), move || {
                holders_of_a_moment(file_system)
            }),
            harness::test(name("holder_of_the_last_attempt"), move || {
                holder_of_the_last_attempt(file_system)
            }),
            harness::test(name("file_in_no_table"), move || file_in_no_table(file_system)),
            harness::test(name("opens_that_the_ring_lost"), move || {
                opens_that_the_ring_lost(file_system)
            }),
        ]);
    }
    harness::main(tests)
}

/// The incident, if its tier sees every open and close.
fn only(incidents: Vec<Incident>) -> Result<Result<Incident, Verdict>> {
    let [incident] = <[Incident; 1]>::try_from(incidents)
        .map_err(|incidents| anyhow::anyhow!("not one incident: {incidents:#?}"))?;
    Ok(match incident.probe.as_str() {
        "fentry" => Ok(incident),
        tier => Err(Verdict::Skipped(format!(
            "the {tier} tier does not see every open and close"
        ))),
    })
}

/// References of an open regular file.
fn refs(file_system: FileSystem) -> u64 {
    1 + u64::from(file_system.is_overlay())
}

/// Each holds for one attempt, and is gone before anybody can look.
fn holders_of_a_moment(file_system: FileSystem) -> Result<Verdict> {
    let (scratch, watch) = watched(file_system)?;
    let names = ["file", "second", "upper"];
    for name in names {
        let file = File::open(scratch.join(name))?;
        ensure!(!scratch.umount()?, "it was not refused");
        drop(file);
        pause::takes(PAUSE, "what containerd waits between two attempts");
    }
    harness::settle()?;
    ensure!(scratch.umount()?, "it is busy");
    let incident = match only(watch.finish()?.0)? {
        Ok(incident) => incident,
        Err(skipped) => return Ok(skipped),
    };
    ensure!(incident.lost_events == 0, "{incident:#?}");
    for name in names {
        let of_name = |path: &str| path == format!("/{name}");
        let mut found = incident.holders.iter().filter(|holder| of_name(&holder.path));
        let holder = found.next().with_context(|| format!("{name}: {incident:#?}"))?;
        ensure!(
            found.next().is_none()
                && holder.kind == "fd"
                && holder.refs == refs(file_system)
                && holder.attempts_blocked == 1
                && holder.opened.is_some()
                && holder.process.as_ref().map(|process| process.pid) == Some(std::process::id()),
            "{incident:#?}"
        );
    }
    ensure!(incident.holders.len() == names.len(), "{incident:#?}");
    let books = &incident.references;
    ensure!(
        books.counted == Some(refs(file_system)) && books.explained == refs(file_system),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// One holder stays, and one is there for the last attempt only: both are in its books.
fn holder_of_the_last_attempt(file_system: FileSystem) -> Result<Verdict> {
    let (scratch, watch) = watched(file_system)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 2)?;
    pause::takes(PAUSE, "what containerd waits between two attempts");
    let file = File::open(scratch.join("second"))?;
    ensure!(!scratch.umount()?, "it was not refused");
    drop(file);
    release(&scratch, [holding])?;
    let incident = match only(watch.finish()?.0)? {
        Ok(incident) => incident,
        Err(skipped) => return Ok(skipped),
    };
    let blocked: Vec<(&str, u64)> = incident
        .holders
        .iter()
        .map(|holder| (holder.path.as_str(), holder.attempts_blocked))
        .collect();
    ensure!(
        blocked.contains(&("/file", 3)) && blocked.contains(&("/second", 1)) && blocked.len() == 2,
        "{incident:#?}"
    );
    let books = &incident.references;
    ensure!(books.overexplained == 0, "{incident:#?}");
    ensure!(
        books.counted == Some(2 * refs(file_system)) && books.unexplained == Some(0),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// A call is under way on a descriptor that was closed since.
fn file_in_no_table(file_system: FileSystem) -> Result<Verdict> {
    let (scratch, watch) = watched(file_system)?;
    let holding = Holding::start("hold-fd-in-call", Namespace::Same, &[scratch.join("fifo")])?;
    refused(&scratch, 3)?;
    let pid = holding.claimed.ready.pid;
    release(&scratch, [holding])?;
    let incident = match only(watch.finish()?.0)? {
        Ok(incident) => incident,
        Err(skipped) => return Ok(skipped),
    };
    let [holder] = incident.holders.as_slice() else {
        anyhow::bail!("{incident:#?}");
    };
    ensure!(
        holder.kind == "kernel"
            && holder.process.is_none()
            && holder.path == "/fifo"
            && holder.attempts_blocked == 3
            && holder.opened_by.as_ref().map(|process| process.pid) == Some(pid),
        "{incident:#?}"
    );
    let books = &incident.references;
    ensure!(
        books.counted == Some(1) && books.unexplained == Some(0),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// A flood that ebusy does not read: ebusy still knows the opener of the file that stays, and names nobody else.
fn opens_that_the_ring_lost(file_system: FileSystem) -> Result<Verdict> {
    let (scratch, watch) = watched(file_system)?;
    let ebusy = Pid::from_raw(watch.pid().cast_signed()).context("a process id")?;
    kill_process(ebusy, Signal::STOP)?;
    let flood = |opens: u32| -> Result<()> {
        for _ in 0..opens {
            File::open(scratch.join("second"))?;
        }
        Ok(())
    };
    flood(FLOOD)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    flood(100)?;
    kill_process(ebusy, Signal::CONT)?;
    // It has a backlog to read, and the first refusal is looked at only then.
    harness::settle()?;
    refused(&scratch, 2)?;
    let pid = holding.claimed.ready.pid;
    release(&scratch, [holding])?;
    let incident = match only(watch.finish()?.0)? {
        Ok(incident) => incident,
        Err(skipped) => return Ok(skipped),
    };
    ensure!(incident.lost_events > 0, "nothing was lost: {incident:#?}");
    let [holder] = incident.holders.as_slice() else {
        anyhow::bail!("{incident:#?}");
    };
    let is_holder = |process: &Option<ebusy_tests::report::Process>| {
        process.as_ref().map(|process| process.pid) == Some(pid)
    };
    ensure!(
        is_holder(&holder.process) && is_holder(&holder.opened_by) && holder.opened.is_some(),
        "{incident:#?}"
    );
    ensure!(incident.references.unexplained == Some(0), "{incident:#?}");
    Ok(Verdict::Passed)
}
