//! A kernel whose memory nobody can read (`lockdown=confidentiality`): ebusy says so, names the fix, and answers with
//! the remaining sources. It is never blind and quiet.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy,
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    report::Who,
    schema,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use serde_json::Value;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("doctor_says_what_mends_it", || {
            where_locked_down(doctor_says_what_mends_it)
        }),
        harness::test("watch_is_blind_and_says_so", || {
            where_locked_down(watch_is_blind_and_says_so)
        }),
        harness::test("demo_says_so_too", || where_locked_down(demo_says_so_too)),
        harness::test("who_names_descriptors", || {
            where_locked_down(who_names_descriptors)
        }),
        harness::test("who_could_not_tell", || where_locked_down(who_could_not_tell)),
    ])
}

fn where_locked_down(test: fn() -> Result<Verdict>) -> Result<Verdict> {
    let path = Path::new("/sys/kernel/security/lockdown");
    let state = fs::read_to_string(path).unwrap_or_default();
    if state.contains("[confidentiality]") {
        test()
    } else {
        Ok(Verdict::Skipped(
            "the kernel is not locked down; cargo xtask test boots one that is".to_owned(),
        ))
    }
}

/// One failed check, the one that is the reason of all others.
fn doctor_says_what_mends_it() -> Result<Verdict> {
    let finished = ebusy::run(ebusy::command("doctor")?.args(["--format", "json"]))?;
    finished.expect_code(3)?;
    let report: Value = serde_json::from_slice(&finished.stdout)?;
    ensure!(report["tier"].is_null(), "{report:#}");
    let checks = report["checks"].as_array().context("checks")?;
    // That a kernel has no Landlock has nothing to do with it.
    let other = |check: &&Value| check["name"] == "confinement" && check["state"] == "warn";
    let failed = checks
        .iter()
        .filter(|check| check["state"] != "ok" && !other(check));
    let failed: Vec<&Value> = failed.collect();
    let [lockdown] = failed.as_slice() else {
        anyhow::bail!("not one failed check: {failed:#?}");
    };
    ensure!(
        lockdown["name"] == "lockdown" && lockdown["state"] == "fail",
        "{lockdown:#}"
    );
    let mend = lockdown["mend"].as_str().context("nothing mends it")?;
    ensure!(mend.contains("lockdown=integrity"), "{mend}");
    // The table of fields is for bug reports, so it is still there.
    let offsets = report["offsets"].as_array().context("offsets")?;
    ensure!(!offsets.is_empty(), "no kernel fields");
    Ok(Verdict::Passed)
}

/// The command is not even started: nobody would see what is refused to it.
fn watch_is_blind_and_says_so() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let proof = scratch.directory().join("proof");
    let finished = ebusy::run(ebusy::command("watch")?.args(["--", "touch"]).arg(&proof))?;
    finished.expect_code(3)?;
    ensure!(finished.stderr.contains("lockdown=integrity"), "{finished:?}");
    ensure!(finished.stderr.contains("ebusy who"), "{finished:?}");
    ensure!(!proof.exists(), "the command was run");
    Ok(Verdict::Passed)
}

fn demo_says_so_too() -> Result<Verdict> {
    let finished = ebusy::run(&mut ebusy::command("demo")?)?;
    finished.expect_code(3)?;
    ensure!(finished.stderr.contains("lockdown=integrity"), "{finished:?}");
    Ok(Verdict::Passed)
}

fn who(scratch: &Scratch) -> Result<(Option<i32>, Who)> {
    let finished = ebusy::run(
        ebusy::command("who")?
            .args(["--format", "json"])
            .arg(scratch.path()),
    )?;
    for expected in ["tier proc", "lockdown=confidentiality", "not working"] {
        ensure!(
            finished.stderr.contains(expected),
            "it does not say {expected:?}: {}",
            finished.stderr
        );
    }
    let answer = schema::read(str::from_utf8(&finished.stdout)?).with_context(|| format!("{finished:?}"))?;
    Ok((finished.status.code(), answer))
}

/// ebusy reports the facts in /proc.
fn who_names_descriptors() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let (code, answer) = who(&scratch)?;
    ensure!(code == Some(1) && answer.probe == "proc", "{code:?} {answer:?}");
    let [holder] = answer.holders.as_slice() else {
        anyhow::bail!("not one holder: {answer:?}");
    };
    let pid = holder.process.as_ref().map(|process| process.pid);
    ensure!(
        holder.kind == "fd" && pid == Some(holding.claimed.ready.pid),
        "{holder:?}"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

/// And it does not take unknown for "nothing". It does not replace a tier that was given by name.
fn who_could_not_tell() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-cwd", Namespace::Same, &[scratch.path().to_owned()])?;
    let (code, answer) = who(&scratch)?;
    ensure!(
        code == Some(3) && answer.holders.is_empty() && answer.references.counted.is_none(),
        "{code:?} {answer:?}"
    );
    let mut command = std::process::Command::new(ebusy::binary()?);
    let finished = ebusy::run(
        command
            .arg("who")
            .arg(scratch.path())
            .args(["--probe", "tracepoint"]),
    )?;
    finished.expect_code(3)?;
    ensure!(finished.stderr.contains("lockdown=integrity"), "{finished:?}");
    holding.release()?;
    Ok(Verdict::Passed)
}
