//! The command line: exit statuses, signals, commands that fail, and messages for a user without privilege.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Finished, Running, Watch},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::{Holding, program},
    namespace::Namespace,
    pause, report,
    scratch::{FileSystem, Scratch},
};
use rustix::process::{Pid, Signal, kill_process};

/// The user `nobody`.
const NOBODY: u32 = 65534;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("not_root", not_root),
        harness::test("help_needs_no_privilege", help_needs_no_privilege),
        harness::test("usage_errors", usage_errors),
        harness::test("output_that_cannot_be_written", output_that_cannot_be_written),
        harness::test("command_not_found", command_not_found),
        harness::test("command_not_executable", command_not_executable),
        harness::test("status_of_the_command", status_of_the_command),
        harness::test("command_killed", command_killed),
        harness::test(
            "interrupted_while_the_command_runs",
            interrupted_while_the_command_runs,
        ),
        harness::test("refused_to_the_command", refused_to_the_command),
        harness::test("refused_to_a_descendant", refused_to_a_descendant),
        harness::test("target_that_matches_nothing_yet", target_that_matches_nothing_yet),
        harness::test("who_on_nothing", who_on_nothing),
    ])
}

fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Finished> {
    ebusy::run(Command::new(ebusy::binary()?).args(arguments))
}

/// It prints an error, and claims neither that it found something nor that it did not.
fn is_error(finished: &Finished, code: i32, says: &str) -> Result<()> {
    finished.expect_code(code)?;
    ensure!(
        finished.stderr.contains(says),
        "it does not speak of {says:?}: {}",
        finished.stderr
    );
    Ok(())
}

fn not_root() -> Result<Verdict> {
    // Where nobody can reach it.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let binary = directory.path().join("ebusy");
    fs::copy(ebusy::binary()?, &binary)?;
    for arguments in [&["watch"][..], &["who", "/"], &["demo"]] {
        let mut command = Command::new(&binary);
        let finished = ebusy::run(command.args(arguments).uid(NOBODY).gid(NOBODY))?;
        is_error(&finished, 2, "root").with_context(|| format!("{arguments:?}"))?;
    }
    Ok(Verdict::Passed)
}

fn help_needs_no_privilege() -> Result<Verdict> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let binary = directory.path().join("ebusy");
    fs::copy(ebusy::binary()?, &binary)?;
    for arguments in [&["--help"][..], &["watch", "--help"], &["--version"]] {
        let mut command = Command::new(&binary);
        let finished = ebusy::run(command.args(arguments).uid(NOBODY).gid(NOBODY))?;
        finished.expect_code(0)?;
        ensure!(!finished.stdout.is_empty(), "{arguments:?} prints nothing");
    }
    Ok(Verdict::Passed)
}

fn usage_errors() -> Result<Verdict> {
    is_error(&run(&["watch", "--probe", "bogus"])?, 2, "bogus")?;
    is_error(&run(&["watch", "--target", "a[b"])?, 2, "a[b")?;
    is_error(&run(&["watch", "--format", "xml"])?, 2, "xml")?;
    is_error(&run(&["frobnicate"])?, 2, "frobnicate")?;
    Ok(Verdict::Passed)
}

fn output_that_cannot_be_written() -> Result<Verdict> {
    let finished = run(&["watch", "-o", "/nonexistent/incidents.jsonl", "--", "true"])?;
    ensure!(
        finished.status.code().is_some_and(|code| code > 1),
        "{finished:?}"
    );
    ensure!(
        finished.stderr.contains("/nonexistent/incidents.jsonl"),
        "{}",
        finished.stderr
    );
    Ok(Verdict::Passed)
}

fn command_not_found() -> Result<Verdict> {
    is_error(
        &run(&["watch", "--", "/nonexistent/command"])?,
        127,
        "/nonexistent/command",
    )?;
    Ok(Verdict::Passed)
}

fn command_not_executable() -> Result<Verdict> {
    is_error(&run(&["watch", "--", "/dev/null"])?, 126, "/dev/null")?;
    Ok(Verdict::Passed)
}

fn status_of_the_command() -> Result<Verdict> {
    for status in [0, 1, 7] {
        let finished = run(&["watch", "--", "sh", "-c", &format!("exit {status}")])?;
        finished.expect_code(status)?;
        // Without an EBUSY it summarises what it saw.
        ensure!(!finished.stderr.is_empty(), "it says nothing");
    }
    Ok(Verdict::Passed)
}

fn command_killed() -> Result<Verdict> {
    run(&["watch", "--", "sh", "-c", "kill -9 $$"])?.expect_code(128 + 9)?;
    run(&["watch", "--", "sh", "-c", "kill -15 $$"])?.expect_code(128 + 15)?;
    Ok(Verdict::Passed)
}

fn interrupted_while_the_command_runs() -> Result<Verdict> {
    let mut command = ebusy::command("watch")?;
    let script = "echo started $$ >&2; exec sleep 1000";
    let running = Running::start(command.args(["--", "sh", "-c", script]))?;
    let line = running.wait_for("started")?;
    running.signal(Signal::INT)?;
    let status = running.wait()?;
    // A terminal would have interrupted the command as well.
    let pid = line
        .rsplit(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .context("a process id")?;
    let pid = Pid::from_raw(pid).context("a process id is positive")?;
    let ended = kill_process(pid, Signal::KILL).is_err();
    running.finished(status)?.expect_code(130)?;
    ensure!(ended, "the command was left behind");
    Ok(Verdict::Passed)
}

/// Watches a command, without `--target`, and returns the incidents.
fn watched(options: &[&str], command_line: &[&OsStr]) -> Result<(Finished, Vec<report::Incident>)> {
    // Standard output is the command's as well.
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("incidents.jsonl");
    let mut command = ebusy::command("watch")?;
    command
        .args(["--format", "json", "-o"])
        .arg(&output)
        .args(options);
    let finished = ebusy::run(command.arg("--").args(command_line))?;
    let json = fs::read_to_string(&output)?;
    let incidents = report::incidents(&json).with_context(|| finished.stderr.clone())?;
    Ok((finished, incidents))
}

fn refused_to_the_command() -> Result<Verdict> {
    let umounter = program("umounter")?;
    for (options, code) in [(&[][..], 0), (&["--fail-on-ebusy"][..], 1)] {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let holding = Holding::start("hold-cwd", Namespace::Slave, &[scratch.join("dir")])?;
        let command_line = [
            umounter.as_os_str(),
            scratch.path().as_os_str(),
            "3".as_ref(),
            "50".as_ref(),
        ];
        let (finished, incidents) = watched(options, &command_line)?;
        finished.expect_code(code)?;
        ensure!(incidents.len() == 1, "{incidents:#?}");
        let expectation = Expectation {
            caller: incidents[0].caller.pid,
            attempts: 3,
            outcome: "still_busy",
            ..Expectation::released(&scratch, vec![Expected::on_copy(&holding).for_attempts(3)])
        };
        expectation.check_only(&incidents)?;
        holding.release()?;
    }
    Ok(Verdict::Passed)
}

fn refused_to_a_descendant() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = Scratch::new(FileSystem::Tmpfs)?;
    let holdings =
        [&scratch, &other].map(|scratch| Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")]));
    let [holding, other_holding] = holdings;
    let (holding, other_holding) = (holding?, other_holding?);
    // The shell's child is the caller; our own refusals meanwhile are not shown.
    let script = "\"$1\" \"$2\" 2 50; sleep 1; :";
    let umounter = program("umounter")?;
    let attempts = thread::spawn(move || {
        for _ in 0..20 {
            let _ = other.umount();
            pause::takes(
                Duration::from_millis(20),
                "what another caller waits between attempts",
            );
        }
        other
    });
    let command_line = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), "sh".as_ref()];
    let command_line: Vec<&OsStr> = command_line
        .into_iter()
        .chain([umounter.as_os_str(), scratch.path().as_os_str()])
        .collect();
    let (finished, incidents) = watched(&[], &command_line)?;
    let _other = attempts.join().ok().context("the other thread")?;
    finished.expect_code(0)?;
    ensure!(incidents.len() == 1, "{incidents:#?}");
    let expectation = Expectation {
        caller: incidents[0].caller.pid,
        attempts: 2,
        outcome: "still_busy",
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(2)])
    };
    expectation.check_only(&incidents)?;
    ensure!(
        incidents[0].caller.comm == "umounter",
        "{:?}",
        incidents[0].caller
    );
    holding.release()?;
    other_holding.release()?;
    Ok(Verdict::Passed)
}

fn target_that_matches_nothing_yet() -> Result<Verdict> {
    let parent = tempfile::Builder::new().prefix("ebusy-later-").tempdir()?;
    let watch = Watch::targets(&[parent.path().join("*/later")])?;
    let scratch = Scratch::within(parent.path(), OsStr::new("later"), FileSystem::Overlay)?;
    let holding = Holding::start("hold-fd", Namespace::Slave, &[scratch.join("file")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let expectation = Expectation::released(&scratch, vec![Expected::on_copy(&holding)]);
    harness::settle()?;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    expectation.check_only(&watch.finish()?.0)?;
    Ok(Verdict::Passed)
}

fn who_on_nothing() -> Result<Verdict> {
    let directory = tempfile::tempdir()?;
    let plain = directory.path().display().to_string();
    // A path that is not there, a directory that is no mount point, an id that no container has.
    for what in ["/nonexistent/mount", &plain, "0123456789ab", "no-such/pod"] {
        let finished = ebusy::run(ebusy::command("who")?.arg(what))?;
        ensure!(
            finished.status.code().is_some_and(|code| code > 1),
            "{what}: {finished:?}"
        );
        ensure!(
            finished.stderr.contains(what),
            "it does not speak of {what:?}: {}",
            finished.stderr
        );
    }
    Ok(Verdict::Passed)
}
