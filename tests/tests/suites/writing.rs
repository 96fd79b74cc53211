//! Output decides nothing and destroys nothing: a reader that does not, or cannot, take ebusy's output changes nothing
//! else, and no result replaces a file that somebody needs.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, symlink},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    capture::Capture,
    ebusy::{self, Finished, command},
    harness::{self, Verdict},
    holder::PATIENCE,
    namespace::Namespace,
    pause,
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, refused},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("a_record_whose_words_nobody_takes", record_unheard),
        harness::test("a_command_whose_results_nobody_takes", command_unheard),
        harness::test("a_watch_whose_results_nobody_takes", watch_unheard),
        harness::test("answers_that_nobody_takes", answers_unheard),
        harness::test("results_in_the_place_of_a_capture", in_the_place_of_a_capture),
        harness::test("results_through_links_and_fifos", through_links_and_fifos),
        harness::test("a_capture_that_is_a_fifo", capture_fifo),
        harness::test("a_capture_where_others_may_write", capture_among_others),
        harness::test("evidence_from_before_stays", evidence_from_before),
        harness::test("results_on_what_is_watched", on_what_is_watched),
    ])
}

/// An output that does not accept data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deaf {
    /// The descriptor is closed.
    Closed,
    /// No space left on the device.
    Full,
    /// A pipe without a reader.
    Gone,
    /// A pipe that is full, and stays so.
    Unread,
}

const DEAF: [Deaf; 4] = [Deaf::Closed, Deaf::Full, Deaf::Gone, Deaf::Unread];

impl Deaf {
    /// Sets it at that descriptor of a command; returns objects that must live as long as the command.
    fn at(self, descriptor: i32, command: &mut Command) -> Result<Option<OwnedFd>> {
        let (to, keep): (Stdio, _) = match self {
            Self::Closed => {
                // SAFETY: a system call.
                unsafe {
                    command.pre_exec(move || {
                        libc::close(descriptor);
                        Ok(())
                    });
                }
                (Stdio::null(), None)
            }
            Self::Full => (File::options().write(true).open("/dev/full")?.into(), None),
            Self::Gone => (pipe_with(PipeFlags::CLOEXEC)?.1.into(), None),
            Self::Unread => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                fcntl_setfl(&write, OFlags::NONBLOCK)?;
                while rustix::io::write(&write, &[b'x'; 4096]).is_ok() {}
                fcntl_setfl(&write, OFlags::empty())?;
                (write.into(), Some(read))
            }
        };
        if descriptor == libc::STDOUT_FILENO {
            command.stdout(to);
        } else {
            command.stderr(to);
        }
        Ok(keep)
    }
}

fn code(child: &mut Child, what: impl std::fmt::Debug) -> Result<Option<i32>> {
    let status =
        pause::until(PATIENCE, || Ok(child.try_wait()?)).with_context(|| format!("{what:?} has no end"))?;
    Ok(status.code())
}

/// Once it takes the signal, and is not just ended by it.
fn end(child: &Child) -> Result<()> {
    pause::until(PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.context("no SigCgt")?.trim(), 16)?;
        Ok((caught & (1 << (libc::SIGTERM - 1)) != 0).then_some(()))
    })?;
    Ok(kill_process(Pid::from_child(child), Signal::TERM)?)
}

fn has_refusal(capture: &Path) -> bool {
    // A segment that is being begun is not one yet.
    Capture::read(capture).is_ok_and(|capture| capture.of("umount").any(|umount| umount["ret"] == -16))
}

fn record_unheard() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for deaf in DEAF {
        let folder = tempfile::tempdir()?;
        let mut command = command("record")?;
        command
            .arg("--target")
            .arg(scratch.path())
            .arg("-o")
            .arg(folder.path());
        let _keep = deaf.at(libc::STDERR_FILENO, &mut command)?;
        let mut child = command.stdout(Stdio::null()).spawn()?;
        pause::until(PATIENCE, || {
            refused(&scratch, 1)?;
            Ok(has_refusal(folder.path()).then_some(()))
        })
        .with_context(|| format!("{deaf:?}: no refusal is recorded"))?;
        ensure!(child.try_wait()?.is_none(), "{deaf:?}: it has ended");
        end(&child)?;
        let code = code(&mut child, deaf)?;
        ensure!(code == Some(0), "{deaf:?}: {code:?}");
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

fn command_unheard() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for deaf in DEAF {
        for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            let folder = tempfile::tempdir()?;
            let mut command = command("watch")?;
            command
                .arg("--target")
                .arg(scratch.path())
                .arg("--capture")
                .arg(folder.path());
            command
                .args(["--", "sh", "-c", "umount \"$1\" 2>/dev/null >&2; exit 7", "sh"])
                .arg(scratch.path());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let _keep = deaf.at(descriptor, &mut command)?;
            let code = code(&mut command.spawn()?, (deaf, descriptor))?;
            ensure!(code == Some(7), "{deaf:?} at {descriptor}: {code:?}");
            ensure!(
                has_refusal(folder.path()),
                "{deaf:?} at {descriptor}: no evidence"
            );
        }
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

fn watch_unheard() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for (deaf, expected) in [(Deaf::Full, 2), (Deaf::Gone, 141), (Deaf::Unread, 2)] {
        let folder = tempfile::tempdir()?;
        let mut command = command("watch")?;
        command
            .arg("--target")
            .arg(scratch.path())
            .arg("--capture")
            .arg(folder.path());
        let _keep = deaf.at(libc::STDOUT_FILENO, &mut command)?;
        let log = folder.path().with_extension("err");
        let mut child = command.stderr(File::create(&log)?).spawn()?;
        pause::until(PATIENCE, || {
            refused(&scratch, 1)?;
            Ok(has_refusal(folder.path()).then_some(()))
        })?;
        ensure!(child.try_wait()?.is_none(), "{deaf:?}: it has ended");
        end(&child)?;
        let code = code(&mut child, deaf)?;
        let log = fs::read_to_string(log)?;
        ensure!(code == Some(expected), "{deaf:?}: {code:?}: {log}");
        ensure!(
            log.contains("stdout: ") && log.contains("results are lost"),
            "{deaf:?}: {log}"
        );
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

/// A `watch` of one umount, which is refused, with its evidence in that folder.
fn refused_once(scratch: &Scratch, capture: &Path) -> Result<Finished> {
    let mut command = command("watch")?;
    command.arg("--target").arg(scratch.path());
    command.arg("--capture").arg(capture);
    command
        .args(["--", "sh", "-c", "umount \"$1\"", "sh"])
        .arg(scratch.path());
    ebusy::run(&mut command)
}

/// A capture in which an umount was refused.
fn recorded(scratch: &Scratch) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let holding = hold_fd(scratch, Namespace::Same, "file")?;
    let finished = refused_once(scratch, folder.path())?;
    ensure!(has_refusal(folder.path()), "{}", finished.stderr);
    holding.release()?;
    Ok(folder)
}

fn segment(folder: &Path) -> Result<PathBuf> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let paths = paths.collect::<Result<Vec<_>>>()?;
    let segment = paths
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "zst"));
    segment.context("no segment")
}

fn answers_unheard() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let capture = recorded(&scratch)?;
    let (capture, free) = (capture.path().as_os_str(), scratch.path().as_os_str());
    let verbs: [(&str, Vec<&std::ffi::OsStr>); 7] = [
        ("report", vec![capture]),
        ("report", vec![capture, "--format".as_ref(), "html".as_ref()]),
        ("report", vec![capture, "--summary".as_ref()]),
        ("export", vec![capture, "--to".as_ref(), "jsonl".as_ref()]),
        ("export", vec![capture, "--to".as_ref(), "perfetto".as_ref()]),
        ("who", vec![free]),
        ("--version", vec![]),
    ];
    for (verb, arguments) in verbs {
        for (deaf, expected) in [(Deaf::Closed, 2), (Deaf::Full, 2), (Deaf::Gone, 141)] {
            // `--version` is no verb, and has no tier.
            let mut command = if verb == "--version" {
                let mut command = Command::new(ebusy::binary()?);
                command.arg(verb);
                command
            } else {
                command(verb)?
            };
            command.args(&arguments).stderr(Stdio::null());
            let _keep = deaf.at(libc::STDOUT_FILENO, &mut command)?;
            let code = code(&mut command.spawn()?, (verb, deaf))?;
            ensure!(code == Some(expected), "{verb} {arguments:?}, {deaf:?}: {code:?}");
        }
    }
    // The findings decide the exit status, whether anybody reads them or not.
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    for deaf in [Deaf::Closed, Deaf::Full, Deaf::Gone] {
        let mut command = command("who")?;
        command.arg(free).stderr(Stdio::null());
        let _keep = deaf.at(libc::STDOUT_FILENO, &mut command)?;
        let code = code(&mut command.spawn()?, deaf)?;
        ensure!(code == Some(1), "who of what is held, {deaf:?}: {code:?}");
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

fn in_the_place_of_a_capture() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (capture, other) = (recorded(&scratch)?, recorded(&scratch)?);
    let (own, foreign) = (segment(capture.path())?, segment(other.path())?);
    let bytes = (fs::read(&own)?, fs::read(&foreign)?);
    let outside = tempfile::tempdir()?;
    let (hard, soft, folder) = (
        outside.path().join("hard"),
        outside.path().join("soft"),
        outside.path().join("folder"),
    );
    fs::hard_link(&own, &hard)?;
    symlink(&own, &soft)?;
    symlink(capture.path(), &folder)?;
    let through = folder.join(own.file_name().context("a name")?);
    let lock = capture.path().join("lock");
    let places = [
        &own,
        &foreign,
        &hard,
        &soft,
        &through,
        &lock,
        &capture.path().to_owned(),
        &folder,
    ];
    for place in places {
        for (verb, format) in [("export", ["--to", "jsonl"]), ("report", ["--format", "html"])] {
            let finished = ebusy::run(command(verb)?.arg(&own).args(format).arg("-o").arg(place))?;
            finished.expect_code(2)?;
            ensure!(
                finished.stderr.contains("-o "),
                "{}: {}",
                place.display(),
                finished.stderr
            );
        }
    }
    // A log that is read, and a capture that is appended to while it is read.
    let log = outside.path().join("log");
    fs::write(&log, "umount: /x: target is busy\n")?;
    let report = ebusy::run(
        command("report")?
            .arg(&own)
            .arg("--log")
            .arg(&log)
            .arg("-o")
            .arg(&log),
    )?;
    report.expect_code(2)?;
    let append = File::options().append(true).open(&own)?;
    let mut export = command("export")?;
    let mut export = export
        .arg(&own)
        .args(["--to", "jsonl"])
        .stdout(append)
        .stderr(Stdio::null())
        .spawn()?;
    ensure!(code(&mut export, "export")? == Some(2), "it read what it wrote");
    ensure!(
        bytes == (fs::read(&own)?, fs::read(&foreign)?),
        "a capture was changed"
    );
    ensure!(
        fs::read_to_string(&log)?.ends_with("busy\n"),
        "the log was changed"
    );
    Ok(Verdict::Passed)
}

fn fifo(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

fn through_links_and_fifos() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let capture = recorded(&scratch)?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("victim"), "precious")?;
    symlink(at("victim"), at("link"))?;
    symlink(at("made"), at("dangling"))?;
    fifo(&at("fifo"))?;
    let capture = capture.path().to_str().context("a path in UTF-8")?;
    let target = scratch.path().to_str().context("a path in UTF-8")?;
    for place in [
        at("link"),
        at("dangling"),
        at("fifo"),
        "/dev/null".into(),
        "/dev/full".into(),
    ] {
        for arguments in [
            &["report", capture][..],
            &["export", capture, "--to", "perfetto"],
            &["who", target],
            &["audit"],
            &["doctor"],
            &["watch", "--no-capture", "--", "true"],
        ] {
            let mut command = Command::new(ebusy::binary()?);
            // Before the command of `watch`.
            command.arg("-o").arg(&place).args(arguments);
            let finished = ebusy::run(&mut command)?;
            finished.expect_code(2)?;
        }
    }
    ensure!(
        fs::read_to_string(at("victim"))? == "precious",
        "a link was followed"
    );
    ensure!(!at("made").exists(), "a file was made through a link");
    fs::write(at("old"), "before")?;
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o666))?;
    for name in ["old", "new"] {
        let path = at(name);
        let report = ebusy::run(command("report")?.arg(capture).arg("-o").arg(&path))?;
        report.expect_code(0)?;
        ensure!(fs::metadata(&path)?.mode() & 0o777 == 0o600, "{name} may be read");
        ensure!(fs::read_to_string(&path)?.contains("EBUSY"), "{name}: no report");
    }
    for stdout in ["-", "/dev/stdout"] {
        let report = ebusy::run(command("report")?.arg(capture).args(["-o", stdout]))?;
        report.expect_code(0)?;
        ensure!(!report.stdout.is_empty(), "nothing came to {stdout}");
    }
    let left = fs::read_dir(folder.path())?.count();
    ensure!(left == 6, "{left} files in the folder");
    Ok(Verdict::Passed)
}

fn capture_fifo() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let alone = folder.path().join("alone");
    fifo(&alone)?;
    let within = folder.path().join("within");
    fs::create_dir(&within)?;
    fifo(&within.join("ebusy-00000001-20260101T000000Z.zst"))?;
    symlink("/dev/zero", within.join("ebusy-00000002-20260101T000000Z.zst"))?;
    for path in [&alone, &within] {
        for arguments in [
            &["report"][..],
            &["export", "--to", "jsonl"],
            &["report", "--since", "1h"],
        ] {
            let (verb, rest) = arguments.split_first().context("a verb")?;
            let finished = ebusy::run(command(verb)?.args(rest).arg(path))?;
            finished.expect_code(2)?;
            ensure!(finished.stderr.contains("FIFO"), "{}", finished.stderr);
        }
    }
    // A recorder in that folder reads the existing files.
    let output = ebusy::run(
        command("watch")?
            .arg("--capture")
            .arg(&within)
            .args(["--", "true"]),
    )?;
    output.expect_code(0)?;
    fs::remove_file(within.join("lock"))?;
    fifo(&within.join("lock"))?;
    let output = ebusy::run(
        command("watch")?
            .arg("--capture")
            .arg(&within)
            .args(["--", "true"]),
    )?;
    output.expect_code(2)?;
    let output = ebusy::run(command("record")?.arg("-o").arg(&alone))?;
    output.expect_code(2)?;
    Ok(Verdict::Passed)
}

fn capture_among_others() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let open = folder.path().join("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs)?;
    std::os::unix::fs::chown(&theirs, Some(65534), Some(65534))?;
    let link = folder.path().join("link");
    symlink(&open, &link)?;
    for place in [
        open.clone(),
        open.join("below"),
        theirs.clone(),
        theirs.join("below"),
        link.join("below"),
    ] {
        for arguments in [&["record", "-o"][..], &["watch", "--capture"]] {
            let (verb, rest) = arguments.split_first().context("a verb")?;
            let mut command = command(verb)?;
            command.env_remove("SUDO_UID").args(rest).arg(&place);
            if *verb == "watch" {
                command.args(["--", "true"]);
            }
            let finished = ebusy::run(&mut command)?;
            finished.expect_code(2)?;
            ensure!(
                finished.stderr.contains("choose another folder")
                    || finished.stderr.contains("choose a folder"),
                "{}",
                finished.stderr
            );
        }
    }
    ensure!(
        fs::read_dir(&open)?.count() + fs::read_dir(&theirs)?.count() == 0,
        "something was made there"
    );
    Ok(Verdict::Passed)
}

/// `watch` does not remove the records of others, even if they exceed its own limit.
fn evidence_from_before() -> Result<Verdict> {
    const OLD: u64 = 150 << 20;
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let capture = recorded(&scratch)?;
    let first = segment(capture.path())?;
    let bytes = fs::read(&first)?;
    let old = [
        capture.path().join("ebusy-00000002-20260101T000000Z.zst"),
        capture.path().join("ebusy-00000003-20260101T000000Z.zst"),
    ];
    for path in &old {
        let mut file = File::create(path)?;
        file.write_all(&bytes)?;
        // Holes: it takes no space.
        file.set_len(OLD)?;
    }
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let finished = refused_once(&scratch, capture.path())?;
    ensure!(finished.status.code() != Some(0), "{}", finished.stderr);
    holding.release()?;
    ensure!(fs::read(&first)? == bytes, "the first segment is not what it was");
    for path in &old {
        ensure!(fs::metadata(path)?.len() == OLD, "{} was changed", path.display());
    }
    ensure!(
        fs::read_dir(capture.path())?.count() == 5,
        "its own segment is not beside them"
    );
    // `record` has a limit for the whole folder, and announces which files it removes.
    let recording = ebusy::Running::start(
        command("record")?
            .args(["--max-size", "1M", "-o"])
            .arg(capture.path()),
    )?;
    recording.wait_for("watching ")?;
    let said = recording.log();
    recording.signal(Signal::TERM)?;
    recording.wait()?;
    ensure!(
        said.contains("segments of before") && said.contains("--max-size"),
        "{said}"
    );
    Ok(Verdict::Passed)
}

fn on_what_is_watched() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let output = scratch.join("output");
    let watch = || -> Result<Command> {
        let mut command = command("watch")?;
        command.arg("--target").arg(scratch.path()).arg("--no-capture");
        Ok(command)
    };
    let file = ebusy::run(watch()?.arg("-o").arg(&output).args(["--", "true"]))?;
    file.expect_code(2)?;
    ensure!(file.stderr.contains("watched"), "{}", file.stderr);
    let log = tempfile::NamedTempFile::new()?;
    let mut stdout = watch()?
        .args(["--", "true"])
        .stdout(File::create(&output)?)
        .stderr(log.reopen()?)
        .spawn()?;
    ensure!(
        code(&mut stdout, "watch")? == Some(2),
        "stdout on what is watched"
    );
    ensure!(
        fs::read_to_string(log.path())?.contains("stdout is a file on a mount that is watched"),
        "it does not say so"
    );
    let folder = tempfile::tempdir()?;
    let mut record = command("record")?;
    record
        .arg("--target")
        .arg(scratch.path())
        .arg("-o")
        .arg(folder.path());
    let mut stderr = record.stderr(File::create(&output)?).spawn()?;
    ensure!(
        code(&mut stderr, "record")? == Some(2),
        "stderr on what is watched"
    );
    Ok(Verdict::Passed)
}
