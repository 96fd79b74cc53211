//! ebusy follows mounts that an umount with `MNT_DETACH` removed to their last reference.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, below},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    namespace::Namespace,
    pause,
    report::{Holder, Incident},
    scratch::{FileSystem, Scratch},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

pub(crate) fn main() -> ExitCode {
    let tests = vec![
        harness::test("detached_followed_to_the_last", followed_to_the_last),
        harness::test("detached_still_in_use_at_the_end", still_in_use_at_the_end),
        harness::test("detached_what_was_below", what_was_below),
        harness::test("detached_copy_that_came_by_propagation", copy_by_propagation),
        harness::test("detached_in_nobodys_use", in_nobodys_use),
    ];
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 5)
}

fn watch(scratch: &Scratch) -> Result<Watch> {
    let all = scratch.directory().join("**");
    let targets = [scratch.directory().as_os_str(), all.as_os_str()];
    let targets = targets.into_iter().flat_map(|of| ["--target".as_ref(), of]);
    let arguments = targets.chain(["-vv".as_ref()]).map(std::ffi::OsStr::to_owned);
    Watch::start(&arguments.collect::<Vec<_>>())
}

/// Waits until ebusy has looked this often for holders of detached mounts.
fn looked(watch: &Watch, times: usize) -> Result<()> {
    let looks = || watch.log().matches("detached mounts: looking took").count();
    pause::until(PATIENCE, || Ok((looks() >= times).then_some(())))
        .with_context(|| format!("{} looks\n{}", looks(), watch.log()))
}

/// Waits until ebusy reports those that live on.
fn told() -> Result<()> {
    harness::settle()?;
    pause::takes(
        Duration::from_secs(1),
        "a mount that was detached is told when it has lived on for a second",
    );
    harness::settle()
}

fn detach(scratch: &Scratch) -> Result<()> {
    ensure!(scratch.umount_with(UnmountFlags::DETACH)?, "a detach was refused");
    Ok(())
}

/// The only incident: of a mount that this process detached.
fn only(scratch: &Scratch, (incidents, log): (Vec<Incident>, String), outcome: &str) -> Result<Incident> {
    let incidents = below(scratch.directory(), incidents);
    ensure!(incidents.len() == 1, "{incidents:#?}");
    let incident = incidents.into_iter().next().context("an incident")?;
    ensure!(
        incident.operation == "detach"
            && incident.reason.is_none()
            && incident.outcome.as_deref() == Some(outcome)
            && (incident.attempts, incident.bursts) == (0, 0)
            && incident.flags == ["MNT_DETACH"]
            && incident.caller.pid == std::process::id()
            && incident.callers.is_empty()
            && incident.lost_events == 0,
        "{incident:#?}\n{log}"
    );
    Ok(incident)
}

/// The incidents, once one of this scratch is over.
fn ended(watch: Watch, scratch: &Scratch) -> Result<(Vec<Incident>, String)> {
    pause::until(PATIENCE, || {
        let incidents = below(scratch.directory(), watch.incidents()?);
        Ok((!incidents.is_empty()).then_some(()))
    })
    .with_context(|| format!("nothing was released\n{}", watch.log()))?;
    watch.finish()
}

fn is_of(holder: &Holder, holding: u32, kind: &str) -> bool {
    let pid = holder.process.as_ref().map(|process| process.pid);
    holder.kind == kind && pid == Some(holding) && holder.through == "target"
}

/// A file and a working directory keep it: it goes with the second of them, and that one is named for it.
fn followed_to_the_last() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (path, id) = (scratch.path().to_owned(), scratch.mount_id());
    let watch = watch(&scratch)?;
    let file = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    let directory = Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?;
    let last = directory.claimed.ready.pid;
    harness::settle()?;
    detach(&scratch)?;
    looked(&watch, 1)?;
    file.release()?;
    // It has another count.
    looked(&watch, 2)?;
    told()?;
    directory.release()?;
    let incidents = ended(watch, &scratch)?;
    let incident = only(&scratch, incidents, "released")?;
    ensure!(
        incident.target.path == path.to_string_lossy()
            && incident.target.mount_id == Some(id)
            && incident.target.fs_type.as_deref() == Some("tmpfs")
            && incident.holders.len() == 1
            && is_of(&incident.holders[0], last, "cwd")
            && incident.holders[0].path == "/dir"
            && incident.references.counted == Some(1)
            && incident.references.unexplained == Some(0),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

fn still_in_use_at_the_end() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let watch = watch(&scratch)?;
    let file = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    let directory = Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?;
    harness::settle()?;
    detach(&scratch)?;
    told()?;
    let incident = only(&scratch, watch.finish()?, "still_busy")?;
    let [first, second] = [(&file, "fd"), (&directory, "cwd")]
        .map(|(holding, kind)| (holding.claimed.ready.pid, kind))
        .map(|(pid, kind)| incident.holders.iter().any(|holder| is_of(holder, pid, kind)));
    ensure!(
        first && second && incident.holders.len() == 2 && incident.references.unexplained == Some(0),
        "{incident:#?}"
    );
    let opened = incident.holders.iter().find(|holder| holder.kind == "fd");
    let by = opened.and_then(|holder| holder.opened_by.as_ref().map(|by| by.pid));
    ensure!(
        by == Some(file.claimed.ready.pid)
            && opened
                .is_some_and(|holder| holder.opened.is_some() && holder.evidence == ["history", "snapshot"]),
        "its open was seen: {opened:#?}"
    );
    ensure!(
        !incident.fixes.is_empty() && incident.fixes.iter().all(|fix| !fix.reads().contains("umount")),
        "{:?}",
        incident.fixes
    );
    file.release()?;
    directory.release()?;
    Ok(Verdict::Passed)
}

/// Mounts below it go as well, each by itself: only the used one lives on.
fn what_was_below() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let below = scratch.join("dir").join("volume");
    fs::create_dir(&below)?;
    mount("ebusy-volume", &below, "tmpfs", MountFlags::empty(), None)?;
    fs::write(below.join("file"), "x")?;
    let watch = watch(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[below.join("file")])?;
    let pid = holding.claimed.ready.pid;
    harness::settle()?;
    detach(&scratch)?;
    told()?;
    holding.release()?;
    let incidents = ended(watch, &scratch)?;
    let incident = only(&scratch, incidents, "released")?;
    ensure!(
        incident.target.path == below.to_string_lossy()
            && incident.target.source.as_deref() == Some("ebusy-volume")
            && incident.holders.len() == 1
            && is_of(&incident.holders[0], pid, "fd"),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// The copy in a slave namespace goes with the umount, and is the one in use.
fn copy_by_propagation() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = watch(&scratch)?;
    let holding = Holding::start("hold-fd", Namespace::Slave, &[scratch.join("file")])?;
    let ready = holding.claimed.ready.clone();
    harness::settle()?;
    detach(&scratch)?;
    told()?;
    holding.release()?;
    let incidents = ended(watch, &scratch)?;
    let incident = only(&scratch, incidents, "released")?;
    ensure!(
        incident.target.mount_namespace == Some(ready.mount_namespace)
            && incident.target.mount_id != Some(scratch.mount_id())
            && incident.holders.len() == 1
            && is_of(&incident.holders[0], ready.pid, "fd"),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// Nobody uses it, or no longer after a moment.
fn in_nobodys_use() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = watch(&scratch)?;
    harness::settle()?;
    detach(&scratch)?;
    for _ in 0..50 {
        mount("ebusy-volume", scratch.path(), "tmpfs", MountFlags::empty(), None)?;
        unmount(scratch.path(), UnmountFlags::DETACH)?;
    }
    told()?;
    let (incidents, log) = watch.finish()?;
    let incidents = below(scratch.directory(), incidents);
    ensure!(incidents.is_empty(), "{incidents:#?}");
    ensure!(log.contains(" detached"), "{log}");
    Ok(Verdict::Passed)
}
