//! The verbs besides `watch`: the demo, the doctor, `who` without a path, and the names in the JSON.

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy,
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    namespace::Namespace,
    report, schema,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use serde_json::Value;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("demo_explains_its_ebusy", demo_explains_its_ebusy),
        harness::test("demo_in_json", demo_in_json),
        harness::test("demo_leaves_nothing_behind", demo_leaves_nothing_behind),
        harness::test("doctor_says_that_it_works", doctor_says_that_it_works),
        harness::test("who_with_a_log_line", who_with_a_log_line),
        harness::test("who_with_a_relative_path", who_with_a_relative_path),
        harness::test("links_are_followed", links_are_followed),
        harness::test("command_lines_only_when_asked", command_lines_only_when_asked),
    ])
}

fn demo_explains_its_ebusy() -> Result<Verdict> {
    let finished = ebusy::run(&mut ebusy::command("demo")?)?;
    finished.expect_code(0)?;
    let text = String::from_utf8(finished.stdout)?;
    // First the verdict, then holder, place, way and time, then the books, then the fixes.
    let mut rest = text.lines();
    for start in [
        "EBUSY  ",
        "HOLDER ",
        "  file ",
        "  through ",
        "  since ",
        "BOOKS  ",
        "STATE  ",
        "FIX    ",
    ] {
        ensure!(
            rest.any(|line| line.starts_with(start)),
            "no {start:?} in its place:\n{text}"
        );
    }
    ensure!(
        text.contains("0 unexplained"),
        "the books do not balance:\n{text}"
    );
    for line in text.lines() {
        ensure!(line.chars().count() <= 110, "a long line: {line}");
    }
    Ok(Verdict::Passed)
}

fn demo_in_json() -> Result<Verdict> {
    let finished = ebusy::run(ebusy::command("demo")?.args(["--format", "json"]))?;
    finished.expect_code(0)?;
    let json = String::from_utf8(finished.stdout)?;
    let incidents = report::incidents(&json)?;
    ensure!(incidents.len() == 1, "{incidents:#?}");
    let incident = &incidents[0];
    ensure!(
        !incident.holders.is_empty() && !incident.bystanders.is_empty(),
        "{incident:#?}"
    );
    ensure!(incident.outcome.as_deref() == Some("released"), "{incident:#?}");
    ensure!(
        incident.references.counted == Some(incident.references.explained),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

fn demo_leaves_nothing_behind() -> Result<Verdict> {
    let state = || -> Result<_> {
        let mut names = Vec::new();
        for entry in fs::read_dir(std::env::temp_dir())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("ebusy-demo") {
                names.push(name);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let demo: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains("ebusy-demo"))
            .map(str::to_owned)
            .collect();
        Ok((names, demo, children()?))
    };
    let before = state()?;
    ebusy::run(&mut ebusy::command("demo")?)?.expect_code(0)?;
    let after = state()?;
    ensure!(before == after, "{before:?}\nthen {after:?}");
    Ok(Verdict::Passed)
}

/// The processes that have the name of a part of the demo.
fn children() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("comm");
        let comm = fs::read_to_string(path).unwrap_or_default();
        if comm.starts_with("demo-") {
            found.push(comm);
        }
    }
    Ok(found)
}

fn doctor_says_that_it_works() -> Result<Verdict> {
    let finished = ebusy::run(&mut ebusy::command("doctor")?)?;
    finished.expect_code(0)?;
    let text = String::from_utf8(finished.stdout)?;
    for expected in [
        "kernel",
        "BTF",
        "tracefs",
        "lockdown",
        "capabilities",
        "kinds of reference",
        "self-test: passed",
        "tier",
    ] {
        ensure!(
            text.contains(expected),
            "it does not speak of {expected}:\n{text}"
        );
    }
    Ok(Verdict::Passed)
}

/// A line of containerd's log is pasted, or piped, as it is.
fn who_with_a_log_line() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let holding = hold_fd(&scratch, Namespace::Slave, "file")?;
    let target = scratch.path().display();
    let line = format!(
        "time=\"2026-11-23T13:18:45Z\" level=error msg=\"unable to delete c1\" error=\"failed to delete task: \
         failed rootfs umount: failed to unmount target {target}: device or resource busy: unknown\"\n"
    );
    let (code, answers) = ebusy::who_of_log(&line)?;
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding)]);
    expectation.check_who(code, &answers)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// Relative paths are those of the directory that ebusy is started in.
fn who_with_a_relative_path() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for what in ["./target", "./target/", "../target/../target", "./target/."] {
        let mut command = ebusy::command("who")?;
        command.args(["--format", "json", what]);
        command.current_dir(scratch.directory());
        let expected = if what.starts_with("..") { 4 } else { 1 };
        ebusy::run(&mut command)?
            .expect_code(expected)
            .with_context(|| what.to_owned())?;
    }
    holding.release()?;
    ensure!(scratch.umount()?, "ebusy holds it");
    Ok(Verdict::Passed)
}

/// As umount(8) does; the link is in the dentry cache, since it was just made.
fn links_are_followed() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let directory = tempfile::tempdir()?;
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(scratch.directory(), &link)?;
    let name = scratch.path().file_name().context("a name")?;
    let (code, answers) = ebusy::who(link.join(name))?;
    let paths: Vec<_> = answers
        .iter()
        .map(|who| who.target.path_bytes())
        .collect::<Result<_>>()?;
    ensure!(
        code == 1 && paths == [scratch.path().as_os_str().as_encoded_bytes()],
        "{code}: {answers:#?}"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

fn command_lines_only_when_asked() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let cmdline = |options: &[&str]| -> Result<Value> {
        let mut command: Command = ebusy::command("who")?;
        let finished = ebusy::run(
            command
                .args(["--format", "json"])
                .args(options)
                .arg(scratch.path()),
        )?;
        let value: Value = schema::read(str::from_utf8(&finished.stdout)?)?;
        Ok(value["holders"][0]["process"]["cmdline"].clone())
    };
    ensure!(cmdline(&[])?.is_null(), "a command line that nobody asked for");
    let asked = cmdline(&["--cmdline"])?;
    ensure!(asked.as_array().is_some_and(|words| words.len() > 1), "{asked}");
    holding.release()?;
    Ok(Verdict::Passed)
}
