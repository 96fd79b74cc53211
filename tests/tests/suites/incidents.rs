//! Many attempts in one incident: bursts, callers, holders that change, copies.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected, Problems},
    harness::{self, Verdict},
    holder::{Helper, Holding, Waiting},
    namespace::Namespace,
    pause,
    report::nanoseconds,
    scratch::{FileSystem, Scratch},
    steps::{PAUSE, hold_fd, nothing_told, refused, release, told, told_and_asked, watched},
    umounter::Umounter,
};

/// Longer than the pause that ends a burst.
const LULL: Duration = Duration::from_millis(1100);

pub(crate) fn main() -> ExitCode {
    let tests = vec![
        harness::test("fifty_attempts", fifty_attempts),
        harness::test("two_bursts", two_bursts),
        harness::test("several_callers", several_callers),
        harness::test("umount_on_behalf_of_a_script", umount_on_behalf_of_a_script),
        harness::test("holder_leaves_between_attempts", holder_leaves_between_attempts),
        harness::test("holder_changes_between_attempts", holder_changes_between_attempts),
        harness::test("holder_becomes_another_program", holder_becomes_another_program),
        harness::test("many_holders_of_one_target", many_holders_of_one_target),
        harness::test("remaining_of_two_copies", remaining_of_two_copies),
        harness::test("remaining_of_target_and_copy", remaining_of_target_and_copy),
        harness::test(
            "copy_that_arrived_by_propagation",
            copy_that_arrived_by_propagation,
        ),
        harness::test("opened_at_once", opened_at_once),
        harness::test("two_targets", two_targets),
        harness::test("other_targets_are_not_shown", other_targets_are_not_shown),
        harness::test("flags", flags),
        harness::test("nothing_refused", nothing_refused),
    ];
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 4)
}

fn fifty_attempts() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let holding = hold_fd(&scratch, Namespace::Slave, "file")?;
    refused(&scratch, 50)?;
    let expectation = Expectation {
        attempts: 50,
        ..Expectation::released(&scratch, vec![Expected::on_copy(&holding).for_attempts(50)])
    };
    let incident = told(&expectation, watch, [holding])?;
    let lasted = nanoseconds(incident.ended.as_deref().context("an end")?)? - nanoseconds(&incident.started)?;
    ensure!(lasted >= 49 * PAUSE.as_nanos() as u64, "it lasted {lasted} ns");
    Ok(Verdict::Passed)
}

fn two_bursts() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 5)?;
    pause::takes(LULL, "a caller that comes back after a second begins a new burst");
    refused(&scratch, 3)?;
    let expectation = Expectation {
        attempts: 8,
        bursts: Some(2),
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(8)])
    };
    told(&expectation, watch, [holding])?;
    Ok(Verdict::Passed)
}

fn several_callers() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let mut callers = Vec::new();
    for attempts in 1..=3 {
        let umounter = Umounter::run(&[], scratch.path(), (attempts, 50), &[])?.expect_refused(attempts)?;
        callers.push((umounter.pid, "umounter".to_owned(), attempts));
    }
    let expectation = Expectation {
        caller: callers[2].0,
        attempts: 6,
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(6)])
    };
    let incident = told(&expectation, watch, [holding])?;
    let mut found: Vec<_> = incident
        .callers
        .iter()
        .map(|caller| (caller.pid, caller.comm.clone(), caller.attempts))
        .collect();
    found.sort_by_key(|(_, _, attempts)| *attempts);
    let mut problems = Problems::default();
    problems.equal("callers", &found, &callers);
    problems.equal("caller.comm", &incident.caller.comm, &"umounter");
    problems.into_result(&incident)?;
    Ok(Verdict::Passed)
}

/// A script lets a shell run umount(8): the caller is `umount`, and the requester the script, whether it continues
/// after that or ends.
fn umount_on_behalf_of_a_script() -> Result<Verdict> {
    let directory = tempfile::tempdir()?;
    let driver = directory.path().join("volume-driver");
    for then in ["sleep 1", "exit 0"] {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let script = format!("#!/bin/sh\nsh -c 'umount \"$1\"; exit $?' sh \"$1\"\n{then}\n");
        // Another process writes it: for a moment every child has this process's open files, and a file that is open
        // for writing cannot be executed.
        let write = r#"printf %s "$2" >"$1" && chmod 700 "$1""#;
        let written = Command::new("sh")
            .args(["-c", write, "sh"])
            .arg(&driver)
            .arg(script)
            .status()?;
        ensure!(written.success(), "{written}");
        let watch = Watch::targets(&[scratch.path()])?;
        let holding = hold_fd(&scratch, Namespace::Same, "file")?;
        let helper = Helper::start(&driver, &[scratch.path().as_os_str().to_owned()])?;
        let pid = helper.pid();
        helper.finish()?;
        release(&scratch, [holding])?;
        let (incidents, _) = watch.finish()?;
        ensure!(incidents.len() == 1, "{incidents:#?}");
        let caller = &incidents[0].caller;
        let requester = caller.requester.as_ref();
        let found = requester.map(|found| (found.pid, found.comm.as_str()));
        let mut problems = Problems::default();
        problems.equal("attempts", &incidents[0].attempts, &1);
        problems.equal("caller", &caller.comm.as_str(), &"umount");
        problems.equal("requester", &found, &Some((pid, "volume-driver")));
        problems.into_result(&incidents)?;
    }
    Ok(Verdict::Passed)
}

/// The books are those of the last refused attempt; a holder that was gone by then is still listed, as it blocked the
/// others.
fn holder_leaves_between_attempts() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let stays = hold_fd(&scratch, Namespace::Same, "file")?;
    let leaves = Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?;
    refused(&scratch, 2)?;
    let former = Expected::on_target(&leaves).for_attempts(2).former();
    harness::settle()?;
    leaves.release()?;
    refused(&scratch, 3)?;
    let holders = vec![Expected::on_target(&stays).for_attempts(5), former];
    let expectation = Expectation {
        attempts: 5,
        bursts: None,
        ..Expectation::released(&scratch, holders)
    };
    told(&expectation, watch, [stays])?;
    Ok(Verdict::Passed)
}

fn holder_changes_between_attempts() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let first = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 2)?;
    let former = Expected::on_target(&first).for_attempts(2).former();
    harness::settle()?;
    first.release()?;
    let second = hold_fd(&scratch, Namespace::Slave, "second")?;
    refused(&scratch, 1)?;
    let expectation = Expectation {
        attempts: 3,
        bursts: None,
        ..Expectation::released(&scratch, vec![Expected::on_copy(&second), former])
    };
    told(&expectation, watch, [second])?;
    Ok(Verdict::Passed)
}

/// A shell opens a file and executes another program later: ebusy reports the program that it runs when it blocks the
/// last time.
fn holder_becomes_another_program() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = Watch::start(&["--cmdline".into(), "--target".into(), scratch.path().into()])?;
    let script = r#"exec 3<"$1"; echo open; read -r go; exec cat"#;
    let file = scratch.join("file");
    let arguments = [OsStr::new("-c"), script.as_ref(), "sh".as_ref(), file.as_ref()];
    let mut helper = Helper::start(Path::new("sh"), &arguments)?;
    ensure!(helper.line()? == "open", "the file is open");
    refused(&scratch, 1)?;
    harness::settle()?;
    helper.say("go")?;
    // It answers, so it is that program.
    helper.say("there")?;
    ensure!(helper.line()? == "there", "cat answers");
    refused(&scratch, 30)?;
    harness::settle()?;
    let pid = helper.pid();
    helper.finish()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let incident = watch.finish_with_one()?;
    let process = incident
        .holders
        .first()
        .and_then(|holder| holder.process.as_ref());
    let process = process.context("a holder")?;
    let mut problems = Problems::default();
    problems.equal("pid", &process.pid, &pid);
    problems.equal("comm", &process.comm.as_str(), &"cat");
    problems.equal("cmdline", &process.cmdline, &Some(vec!["cat".into()]));
    problems.into_result(&incident)?;
    Ok(Verdict::Passed)
}

fn many_holders_of_one_target() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let holdings = [
        hold_fd(&scratch, Namespace::Same, "file")?,
        hold_fd(&scratch, Namespace::Same, "file")?,
        Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?,
        Holding::start("hold-root-cwd", Namespace::Same, &[scratch.join(".")])?,
        Holding::start("hold-mmap", Namespace::Same, &[scratch.join("second")])?,
        Holding::start("hold-child-mount", Namespace::Same, &[scratch.join("dir")])?,
        hold_fd(&scratch, Namespace::Same, "upper")?,
    ];
    refused(&scratch, 1)?;
    let expectation = Expectation::released(&scratch, holdings.iter().map(Expected::on_target).collect());
    told_and_asked(&expectation, watch, holdings)?;
    Ok(Verdict::Passed)
}

fn remaining_of_two_copies() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let holdings = [
        hold_fd(&scratch, Namespace::Slave, "file")?,
        hold_fd(&scratch, Namespace::Slave, "second")?,
    ];
    refused(&scratch, 1)?;
    let [first, second] = &holdings;
    // The kernel may meet any of the copies first; it counted only that one.
    let orders = [(first, second), (second, first)].map(|(counted, left)| {
        Expectation::released(
            &scratch,
            vec![Expected::on_copy(counted), Expected::on_copy(left).remaining()],
        )
    });
    release(&scratch, holdings)?;
    let (incidents, _) = watch.finish()?;
    if orders[0].check_only(&incidents).is_err() {
        orders[1].check_only(&incidents)?;
    }
    Ok(Verdict::Passed)
}

fn remaining_of_target_and_copy() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holdings = [
        hold_fd(&scratch, Namespace::Same, "file")?,
        hold_fd(&scratch, Namespace::Slave, "second")?,
    ];
    refused(&scratch, 1)?;
    let [target, copy] = &holdings;
    let expectation = Expectation::released(
        &scratch,
        vec![Expected::on_target(target), Expected::on_copy(copy).remaining()],
    );
    told_and_asked(&expectation, watch, holdings)?;
    Ok(Verdict::Passed)
}

/// The holder's namespace is there first, and gets the mount by propagation: a node agent and a new container.
fn copy_that_arrived_by_propagation() -> Result<Verdict> {
    let waiting = Waiting::start("hold-fd", Namespace::Slave)?;
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    harness::settle()?;
    let holding = waiting.proceed(&[scratch.join("file")])?;
    refused(&scratch, 1)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding)]);
    told(&expectation, watch, [holding])?;
    Ok(Verdict::Passed)
}

/// A namespace that is made, and a file that is opened in it, before anybody can have learnt of it.
fn opened_at_once() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let holding = Holding::start_at_once("hold-fd", Namespace::Slave, &[scratch.join("file")])?;
    refused(&scratch, 1)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding).at_once()]);
    told(&expectation, watch, [holding])?;
    Ok(Verdict::Passed)
}

fn two_targets() -> Result<Verdict> {
    let scratches = [
        Scratch::new(FileSystem::Tmpfs)?,
        Scratch::new(FileSystem::Overlay)?,
    ];
    let watch = Watch::targets(&[scratches[0].path(), scratches[1].path()])?;
    let holdings = [
        hold_fd(&scratches[0], Namespace::Same, "file")?,
        hold_fd(&scratches[1], Namespace::Same, "file")?,
    ];
    for _ in 0..3 {
        for scratch in &scratches {
            refused(scratch, 1)?;
        }
    }
    let expectations = [0, 1].map(|index| Expectation {
        attempts: 3,
        ..Expectation::released(
            &scratches[index],
            vec![Expected::on_target(&holdings[index]).for_attempts(3)],
        )
    });
    for (scratch, holding) in scratches.iter().zip(holdings) {
        release(scratch, [holding])?;
    }
    let (incidents, _) = watch.finish()?;
    ensure!(incidents.len() == 2, "{incidents:#?}");
    for expectation in &expectations {
        let path = expectation.scratch.path().to_string_lossy();
        let incident = incidents
            .iter()
            .find(|incident| incident.target.path == path)
            .context("a target")?;
        expectation.check(incident)?;
    }
    Ok(Verdict::Passed)
}

fn other_targets_are_not_shown() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = Scratch::new(FileSystem::Tmpfs)?;
    let watch = Watch::targets(&[scratch.path()])?;
    let holding = hold_fd(&other, Namespace::Same, "file")?;
    refused(&other, 2)?;
    release(&other, [holding])?;
    nothing_told(watch)?;
    Ok(Verdict::Passed)
}

fn flags() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let umounter = Umounter::run(&[], scratch.path(), (1, 50), &["force", "nofollow"])?.expect_refused(1)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]).by(umounter.pid);
    let incident = told(&expectation, watch, [holding])?;
    let mut flags = incident.flags;
    flags.sort();
    ensure!(flags == ["MNT_FORCE", "UMOUNT_NOFOLLOW"], "{flags:?}");
    Ok(Verdict::Passed)
}

fn nothing_refused() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    hold_fd(&scratch, Namespace::Slave, "file")?.release()?;
    let (code, answers) = who(scratch.path())?;
    Expectation::released(&scratch, Vec::new()).check_who(code, &answers)?;
    ensure!(scratch.umount()?, "the umount was refused while ebusy watched");
    let (incidents, log) = watch.finish()?;
    ensure!(incidents.is_empty(), "{incidents:#?}");
    ensure!(log.lines().count() > 1, "it does not say what it saw: {log}");
    Ok(Verdict::Passed)
}
