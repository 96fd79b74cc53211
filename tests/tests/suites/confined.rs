//! After its start every thread of ebusy has dropped its rights, as /proc shows; its command keeps all.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::{
        fd::AsFd as _,
        unix::{fs::chown, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Running},
    harness::{self, Verdict},
    holder::PATIENCE,
    pause,
};
use rustix::{pipe::fcntl_setpipe_size, process::Signal};

/// Bits of the capabilities that a run on this kernel keeps (docs/security.md).
const KEPT: u64 = bit(1) | bit(2) | bit(19) | bit(21) | bit(34) | bit(38) | bit(39);
/// `CAP_DAC_OVERRIDE` and `CAP_FOWNER`.
const OF_OTHERS: u64 = bit(1) | bit(3);
/// A user without any name.
const NOBODY: u32 = 65_534;

/// A line of a log, for a report to say something.
const LINE: &[u8] = b"umount: /mnt/x: target is busy.\n";

const fn bit(number: u32) -> u64 {
    1 << number
}

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("watch_and_its_threads", watch_and_its_threads),
        harness::test("record_and_its_threads", record_and_its_threads),
        harness::test("the_command_keeps_all", the_command_keeps_all),
        harness::test("report_has_no_rights", report_has_no_rights),
        harness::test("export_has_no_rights", export_has_no_rights),
        harness::test(
            "a_report_in_the_folder_of_another_user",
            a_report_in_the_folder_of_another_user,
        ),
        harness::test(
            "many_segments_are_opened_at_once",
            many_segments_are_opened_at_once,
        ),
        harness::test("doctor_says_what_is_in_force", doctor_says_what_is_in_force),
    ])
}

/// The kernel's view of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    no_new_privs: String,
    seccomp: String,
    capabilities: u64,
}

impl Status {
    fn of(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok::<_, anyhow::Error>(
                line.with_context(|| format!("{name} in {text}"))?
                    .trim()
                    .to_owned(),
            )
        };
        let sets = ["CapEff", "CapPrm", "CapInh"].map(|name| Ok(u64::from_str_radix(&field(name)?, 16)?));
        let sets: Vec<u64> = sets.into_iter().collect::<Result<_>>()?;
        Ok(Self {
            name: field("Name")?,
            no_new_privs: field("NoNewPrivs")?,
            seccomp: field("Seccomp")?,
            capabilities: sets.into_iter().fold(0, |all, set| all | set),
        })
    }

    fn is_confined(&self) -> bool {
        self.no_new_privs == "1" && self.seccomp == "2"
    }
}

/// All threads of a process.
fn threads(pid: u32) -> Result<BTreeMap<String, Status>> {
    let mut found = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = Status::of(&fs::read_to_string(thread?.path().join("status"))?)?;
        found.insert(status.name.clone(), status);
    }
    Ok(found)
}

/// Asserts that all threads are confined, and that the other threads which need no capabilities have none.
fn confined(running: &Running, expected: &[&str]) -> Result<()> {
    // A thread takes its name once it runs.
    let found = pause::until(PATIENCE, || {
        let found = threads(running.pid())?;
        let all = expected.iter().all(|name| found.contains_key(*name));
        Ok(all.then_some(found))
    })
    .with_context(|| format!("one of {expected:?} is missing: {:?}", threads(running.pid())))?;
    for (name, status) in &found {
        let kept = match name.as_str() {
            "ebusy" | "ebusy-record" => KEPT,
            _ => 0,
        };
        ensure!(status.is_confined(), "{status:?}");
        ensure!(
            status.capabilities & !kept == 0,
            "{status:?}, expected {kept:x} at the most"
        );
    }
    Ok(())
}

fn watch_and_its_threads() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("capture");
    let running = Running::start(ebusy::command("watch")?.arg("--capture").arg(capture))?;
    running.wait_for("watching")?;
    confined(
        &running,
        &["ebusy", "ebusy-watchdog", "ebusy-write", "ebusy-record"],
    )?;
    running.signal(Signal::INT)?;
    let status = running.wait()?;
    running.finished(status)?.expect_code(0)?;
    Ok(Verdict::Passed)
}

fn record_and_its_threads() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let running = Running::start(
        ebusy::command("record")?
            .arg("-o")
            .arg(folder.path().join("capture")),
    )?;
    running.wait_for("watching")?;
    confined(
        &running,
        &["ebusy", "ebusy-watchdog", "ebusy-write", "ebusy-record"],
    )?;
    running.signal(Signal::TERM)?;
    let status = running.wait()?;
    running.finished(status)?.expect_code(0)?;
    Ok(Verdict::Passed)
}

/// It makes a mount namespace, which neither filter nor Landlock would let it, and writes a file.
fn the_command_keeps_all() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let seen = |command: &mut Command| -> Result<Status> {
        let output = folder.path().join("out");
        let script = r#"cat /proc/self/status > "$1" && unshare -m mount -t tmpfs none "${1%/*}""#;
        let finished = ebusy::run(command.args(["sh", "-c", script, "sh"]).arg(&output))?;
        finished.expect_code(0)?;
        let status = fs::read_to_string(&output)?;
        fs::remove_file(&output)?;
        Status::of(&status)
    };
    let alone = seen(&mut Command::new("env"))?;
    let through = seen(ebusy::command("watch")?.args(["--no-capture", "--"]))?;
    ensure!(alone == through, "{alone:?}, through ebusy {through:?}");
    ensure!(
        through.seccomp == "0" && through.no_new_privs == "0",
        "{through:?}"
    );
    Ok(Verdict::Passed)
}

/// A capture that says little.
fn capture(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("capture");
    let watch = ebusy::run(
        ebusy::command("watch")?
            .arg("--capture")
            .arg(&path)
            .args(["--", "true"]),
    )?;
    watch.expect_code(0)?;
    Ok(path)
}

/// Waits until its one thread has exactly these capabilities, and is confined.
fn comes_to_have(running: &Running, capabilities: u64) -> Result<()> {
    pause::until(PATIENCE, || {
        let found = threads(running.pid())?;
        let so = found
            .values()
            .all(|status| status.is_confined() && status.capabilities == capabilities);
        Ok((so && !found.is_empty()).then_some(()))
    })
    .with_context(|| format!("{:?}\n{}", threads(running.pid()), running.log()))
}

/// `report` that waits for the end of a log, which comes when the writer is dropped.
fn waiting_report(capture: &Path, more: &[&Path]) -> Result<(Running, impl std::io::Write + use<>)> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(ebusy::binary()?);
    command.arg("report").arg(capture).args(["--log", "-"]).args(more);
    Ok((Running::reading(&mut command, Stdio::from(reader))?, writer))
}

fn report_has_no_rights() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let output = folder.path().join("report.txt");
    for more in [vec![], vec![Path::new("-o"), &output]] {
        let (running, mut log) = waiting_report(&capture, &more)?;
        comes_to_have(&running, 0)?;
        log.write_all(LINE)?;
        drop(log);
        let status = running.wait()?;
        running.finished(status)?.expect_code(0)?;
    }
    ensure!(fs::metadata(&output)?.len() > 0, "the report is empty");
    Ok(Verdict::Passed)
}

/// Nobody reads what it writes, for which a pipe of a page has no room.
fn export_has_no_rights() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let (reader, writer) = std::io::pipe()?;
    let size = fcntl_setpipe_size(writer.as_fd(), 4096)?;
    let full = vec![b' '; size];
    (&writer).write_all(&full)?;
    let mut child = Command::new(ebusy::binary()?)
        .args(["export", "--to", "jsonl"])
        .arg(&capture)
        .stdout(Stdio::from(writer))
        .spawn()?;
    let looked = pause::until(PATIENCE, || {
        let found = threads(child.id())?;
        let so = found
            .values()
            .all(|status| status.is_confined() && status.capabilities == 0);
        Ok((so && !found.is_empty()).then_some(()))
    });
    let read = std::io::read_to_string(reader)?;
    let status = child.wait()?;
    looked?;
    ensure!(status.success(), "{status}");
    ensure!(read.trim_start().starts_with('{'), "{read}");
    Ok(Verdict::Passed)
}

/// Root without capabilities is a user as others: it could not give the file its name.
fn a_report_in_the_folder_of_another_user() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs)?;
    fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    chown(&theirs, Some(NOBODY), Some(NOBODY))?;
    let output = theirs.join("report.txt");
    let (running, mut log) = waiting_report(&capture, &[Path::new("-o"), &output])?;
    comes_to_have(&running, OF_OTHERS)?;
    log.write_all(LINE)?;
    drop(log);
    let status = running.wait()?;
    running.finished(status)?.expect_code(0)?;
    ensure!(fs::metadata(&output)?.len() > 0, "the report is empty");
    ensure!(fs::read_dir(&theirs)?.count() == 1, "something was left");
    Ok(Verdict::Passed)
}

/// More of them than descriptors that a process begins with.
fn many_segments_are_opened_at_once() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let capture = capture(folder.path())?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Some(entry.ok()?.path()).filter(|path| path.extension().is_some())
    };
    let first = fs::read_dir(&capture)?.find_map(name).context("no segment")?;
    for number in 2..200 {
        fs::copy(
            &first,
            capture.join(format!("ebusy-{number:08}-20260101T000000Z.zst")),
        )?;
    }
    let mut command = Command::new(ebusy::binary()?);
    command.arg("report").arg(&capture).args(["--since", "1h"]);
    // SAFETY: only a system call.
    unsafe {
        command.pre_exec(|| {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = 32;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            Ok(())
        });
    }
    let finished = ebusy::run(&mut command)?;
    ensure!(!finished.stderr.contains("ulimit"), "{}", finished.stderr);
    ensure!(
        finished.status.code() != Some(2),
        "{}\n{}",
        finished.status,
        finished.stderr
    );
    Ok(Verdict::Passed)
}

fn doctor_says_what_is_in_force() -> Result<Verdict> {
    let doctor = ebusy::run(ebusy::command("doctor")?.arg("--short"))?;
    let text = String::from_utf8_lossy(&doctor.stdout);
    let line = text
        .lines()
        .find(|line| line.contains("confinement: "))
        .context("no line on it")?;
    ensure!(line.contains("a filter of system calls, "), "{line}");
    ensure!(line.contains("Landlock"), "{line}");
    Ok(Verdict::Passed)
}
