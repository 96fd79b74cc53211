//! Names with anything in them, holders that come and go, mount points that are covered: a clear answer,
//! never a wrong name.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    audit::Audit,
    ebusy::{self, Watch, who},
    expect::{Expectation, Expected, Problems},
    harness::{self, Verdict},
    hold,
    holder::{Helper, Holding, PATIENCE, program},
    namespace::Namespace,
    pause,
    report::{Holder, Incident},
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, watched},
    terminal,
};
use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use serde::Deserialize;
use tempfile::TempDir;

/// The longest path that a system call takes.
const PATH_MAX: usize = 4095;

/// Text that must never reach a terminal: it sets the window's title, rings, turns the direction of text and starts a
/// line that looks like one of ebusy's own.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{202e}\u{200b}\nHOLDER nobody";

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("name_with_escapes", name_with_escapes),
        harness::test("name_that_is_not_utf8", name_that_is_not_utf8),
        harness::test("mount_point_with_escapes", mount_point_with_escapes),
        harness::test("mount_point_that_is_not_utf8", mount_point_that_is_not_utf8),
        harness::test("program_with_escapes", program_with_escapes),
        harness::test("longest_path", longest_path),
        harness::test("deeper_than_any_path", deeper_than_any_path),
        harness::test("terminal_is_not_fooled", terminal_is_not_fooled),
        harness::test("holders_that_come_and_go", holders_that_come_and_go),
        harness::test("who_on_holders_that_come_and_go", who_on_holders_that_come_and_go),
        harness::test("overmounted_target", overmounted_target),
        harness::test("overmounted_a_moment_ago", overmounted_a_moment_ago),
        harness::test("caller_is_gone", caller_is_gone),
        harness::test("one_of_100_000_descriptors", one_of_100_000_descriptors),
        harness::test(
            "file_system_that_does_not_answer",
            file_system_that_does_not_answer,
        ),
    ])
}

/// A directory for mounts with any name.
struct Stage(TempDir);

impl Stage {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("ebusy-hostile-").tempdir()?))
    }

    fn scratch(&self, name: &OsStr, file_system: FileSystem) -> Result<Scratch> {
        Scratch::within(self.0.path(), name, file_system)
    }

    /// Holds a file, is refused once, and releases it; ebusy's report matches the holder's claim.
    fn explains(&self, scratch: &Scratch, name: &str, path: PathBuf) -> Result<Verdict> {
        // The name of the mount may have characters that a glob gives a meaning.
        let watch = Watch::targets(&[self.0.path().join("*/*")])?;
        let holding = Holding::start(name, Namespace::Slave, &[path])?;
        ensure!(!scratch.umount()?, "the umount was not refused");
        let expectation = Expectation::released(scratch, vec![Expected::on_copy(&holding)]);
        let (code, answers) = who(scratch.path())?;
        holding.release()?;
        ensure!(scratch.umount()?, "still busy after the release");
        let (incidents, _) = watch.finish()?;
        expectation.check_only(&incidents)?;
        expectation.check_who(code, &answers).context("who")?;
        Ok(Verdict::Passed)
    }
}

fn name_with_escapes() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Overlay)?;
    let path = scratch.join(EVIL);
    fs::write(&path, "x")?;
    stage.explains(&scratch, "hold-fd", path)
}

fn name_that_is_not_utf8() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Tmpfs)?;
    let path = scratch
        .path()
        .join(OsStr::from_bytes(b"caf\xe9 \xff\xfe\xc0\x80.log"));
    fs::write(&path, "x")?;
    stage.explains(&scratch, "hold-fd", path)
}

fn mount_point_with_escapes() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new(EVIL), FileSystem::Tmpfs)?;
    let path = scratch.join("file");
    stage.explains(&scratch, "hold-fd", path)
}

fn mount_point_that_is_not_utf8() -> Result<Verdict> {
    let stage = Stage::new()?;
    let name = OsStr::from_bytes(b"space tab\t back\\slash \\040 \xff");
    let scratch = stage.scratch(name, FileSystem::Tmpfs)?;
    let path = scratch.join("file");
    stage.explains(&scratch, "hold-fd", path)
}

/// The command name is the file's name, cut to 15 bytes.
fn program_with_escapes() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Tmpfs)?;
    let path = scratch.join("\u{1b}[2J(x) S 1\n");
    fs::rename(scratch.install(&program("hold-idle")?)?, &path)?;
    stage.explains(&scratch, "hold-exe", path)
}

fn longest_path() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Overlay)?;
    let path = longest(scratch.path())?;
    stage.explains(&scratch, "hold-fd", path)
}

/// Makes a file whose path has as many bytes as a path can have.
fn longest(root: &Path) -> Result<PathBuf> {
    let mut path = root.as_os_str().as_bytes().to_vec();
    while PATH_MAX - path.len() > 256 {
        // A name has at most 255 bytes; the rest must be enough for a last one.
        let length = 255.min(PATH_MAX - path.len() - 3);
        path.push(b'/');
        path.extend("d\u{1b}[31m\n".bytes().cycle().take(length));
        fs::create_dir(OsStr::from_bytes(&path))?;
    }
    path.push(b'/');
    path.resize(PATH_MAX, b'f');
    let path = PathBuf::from(OsString::from_vec(path));
    fs::write(&path, "x")?;
    Ok(path)
}

/// Directories can be made deeper than any path can say: each of many files there has a path of the greatest length,
/// and the cost does not grow with the depth times their number.
fn deeper_than_any_path() -> Result<Verdict> {
    const DEPTH: usize = 4000;
    const FILES: usize = 900;
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Tmpfs)?;
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut below = openat(CWD, scratch.path(), directory, Mode::empty())?;
    let name = "n".repeat(255);
    for _ in 0..DEPTH {
        mkdirat(&below, &*name, Mode::RWXU)?;
        below = openat(&below, &*name, directory, Mode::empty())?;
    }
    let create = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let files: Vec<OwnedFd> = (0..FILES)
        .map(|file| openat(&below, format!("file {file}"), create, Mode::RWXU))
        .collect::<Result<_, _>>()?;
    let began = Instant::now();
    let (code, answers) = who(scratch.path())?;
    let took = began.elapsed();
    let [answer] = &answers[..] else {
        anyhow::bail!("{answers:#?}");
    };
    let named = |file: usize| {
        let end = format!("/file {file}");
        let mut paths = answer.holders.iter().map(|holder| holder.path.as_str());
        let mut is_it =
            |path: &str| path.starts_with(".../n") && path.len() <= PATH_MAX + 1 && path.ends_with(&end);
        paths.any(&mut is_it)
    };
    ensure!(
        code == 1 && answer.holders.len() == FILES + 1,
        "{}",
        answer.holders.len()
    );
    ensure!((0..FILES).step_by(100).all(named), "{:?}", answer.holders.first());
    ensure!(took < PATIENCE, "it took {took:?}");
    drop((files, below));
    Ok(Verdict::Passed)
}

fn terminal_is_not_fooled() -> Result<Verdict> {
    if !terminal::is_available() {
        return Ok(Verdict::Skipped("no pseudo-terminals".to_owned()));
    }
    let scratch = Scratch::within(&std::env::temp_dir(), OsStr::new(EVIL), FileSystem::Tmpfs)?;
    let path = scratch.join(EVIL);
    fs::write(&path, "x")?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[path])?;
    let umounter = program("umounter")?;
    let mut who = ebusy::command("who")?;
    who.arg(scratch.path());
    let mut watch = ebusy::command("watch")?;
    watch
        .arg("--")
        .args([umounter.as_os_str(), scratch.path().as_os_str()])
        .args(["2", "50"]);
    for command in [&mut who, &mut watch] {
        let (status, printed) = terminal::run(command)?;
        let text = String::from_utf8(printed).context("a terminal gets UTF-8")?;
        ensure!(status.code().is_some_and(|code| code <= 1), "{status}: {text}");
        ensure!(text.contains("owned"), "it does not name the file: {text}");
        for forbidden in ["\u{1b}]", "\u{7}", "\u{202e}", "\u{200b}", "\nHOLDER nobody"] {
            ensure!(
                !text.contains(forbidden),
                "the terminal gets {forbidden:?}: {text:?}"
            );
        }
        ensure!(!text.contains("panicked"), "{text}");
    }
    holding.release()?;
    Ok(Verdict::Passed)
}

/// The final line of `flicker`.
#[derive(Debug, Deserialize)]
struct Flickered {
    pids: Vec<u32>,
}

/// Starts short-lived holders, runs something, and returns who they all were.
fn while_flickering<T>(scratch: &Scratch, run: impl FnOnce() -> Result<T>) -> Result<(HashSet<u32>, T)> {
    let mut flicker = Helper::start(&program("flicker")?, &[scratch.join("file")])?;
    flicker.line()?;
    let result = run();
    flicker.end_input();
    let line = flicker.line()?;
    let flickered: Flickered = serde_json::from_str(&line).context(line)?;
    flicker.finish()?;
    Ok((flickered.pids.into_iter().collect(), result?))
}

fn holders_that_come_and_go() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    // This one stays, so that every attempt is refused.
    let steady = Holding::start("hold-cwd", Namespace::Same, &[scratch.join("dir")])?;
    let (pids, ()) = while_flickering(&scratch, || {
        for _ in 0..200 {
            ensure!(!scratch.umount()?, "the umount was not refused");
            pause::takes(
                Duration::from_millis(2),
                "what a caller waits that never gives up",
            );
        }
        Ok(())
    })?;
    harness::settle()?;
    let steady_pid = steady.claimed.ready.pid;
    steady.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let (incidents, _) = watch.finish()?;
    ensure!(
        incidents.len() == 1 && incidents[0].attempts == 200,
        "{incidents:#?}"
    );
    only(&incidents[0], steady_pid, &pids)?;
    Ok(Verdict::Passed)
}

/// Every holder is the steady one or one of the others, and the books add up.
fn only(incident: &Incident, steady: u32, pids: &HashSet<u32>) -> Result<()> {
    let mut problems = Problems::default();
    let mut is_there = false;
    for holder in incident
        .holders
        .iter()
        .chain(&incident.bystanders)
        .chain(&incident.candidates)
    {
        let process = holder.process.as_ref().context("a holder has a process")?;
        let found = (process.comm.as_str(), holder.kind.as_str(), holder.path.as_str());
        if process.pid == steady {
            is_there = true;
            problems.equal("the steady one", &found, &("hold-cwd", "cwd", "/dir"));
            problems.equal("attempts_blocked", &holder.attempts_blocked, &incident.attempts);
        } else {
            problems.check(pids.contains(&process.pid), || {
                format!("{} is none of them", process.pid)
            });
            problems.equal("one of the others", &found, &("flicker", "fd", "/file"));
        }
    }
    problems.check(is_there, || "the steady one is missing".to_owned());
    let books = &incident.references;
    let sum: u64 = incident
        .holders
        .iter()
        .filter(|holder| holder.counted)
        .map(|holder| holder.refs)
        .sum();
    problems.equal("explained", &books.explained, &sum);
    if let (Some(counted), Some(unexplained)) = (books.counted, books.unexplained) {
        problems.equal(
            "the books",
            &(counted + books.overexplained),
            &(books.explained + unexplained),
        );
    }
    problems.into_result(incident)
}

fn who_on_holders_that_come_and_go() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (pids, answers) = while_flickering(&scratch, || {
        (0..5).map(|_| who(scratch.path())).collect::<Result<Vec<_>>>()
    })?;
    for holder in answers
        .iter()
        .flat_map(|(_, answers)| answers)
        .flat_map(|answer| &answer.holders)
    {
        let process = holder.process.as_ref().context("a holder has a process")?;
        ensure!(
            pids.contains(&process.pid) && process.comm == "flicker",
            "{holder:#?}"
        );
    }
    ensure!(scratch.umount()?, "ebusy or a holder is still there");
    Ok(Verdict::Passed)
}

/// If two mounts are on one mount point, umount takes the upper: a holder of the lower one is innocent until its mount
/// is the upper one.
fn overmounted_target() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let below = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    mount("ebusy-cover", scratch.path(), "tmpfs", MountFlags::empty(), None)?;
    let cover = ebusy_tests::namespace::mount_id(scratch.path())?;
    let above = Holding::start("hold-fd-directory", Namespace::Same, &[scratch.join(".")])?;
    ensure!(!scratch.umount()?, "the umount of the upper was not refused");
    harness::settle()?;
    let above_pid = above.claimed.ready.pid;
    above.release()?;
    ensure!(scratch.umount()?, "the upper is still busy");
    ensure!(!scratch.umount()?, "the umount of the lower was not refused");
    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&below)]);
    harness::settle()?;
    below.release()?;
    ensure!(scratch.umount()?, "the lower is still busy");

    let (incidents, _) = watch.finish()?;
    ensure!(incidents.len() == 2, "{incidents:#?}");
    let upper = incidents
        .iter()
        .find(|incident| incident.target.source.as_deref() == Some("ebusy-cover"))
        .context("an incident of the upper")?;
    let mut problems = Problems::default();
    problems.equal("mount_id", &upper.target.mount_id, &Some(cover));
    problems.equal("counted", &upper.references.counted, &Some(1));
    problems.equal("unexplained", &upper.references.unexplained, &Some(0));
    let holders: Vec<_> = upper
        .holders
        .iter()
        .filter_map(|holder| holder.process.as_ref())
        .map(|process| process.pid)
        .collect();
    problems.equal("holders", &holders, &vec![above_pid]);
    problems.into_result(upper)?;
    let lower = incidents
        .iter()
        .find(|incident| incident.target.source.as_deref() == Some("ebusy-scratch"))
        .context("an incident of the lower")?;
    expectation.check(lower)?;
    Ok(Verdict::Passed)
}

/// The path means a new mount on top of a known one, although ebusy has not looked since.
fn overmounted_a_moment_ago() -> Result<Verdict> {
    const TURNS: usize = 10;
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    for _ in 0..TURNS {
        harness::settle()?;
        mount("ebusy-cover", scratch.path(), "tmpfs", MountFlags::empty(), None)?;
        let held = File::open(scratch.path())?;
        ensure!(!scratch.umount()?, "the umount was not refused");
        harness::settle()?;
        drop(held);
        ensure!(scratch.umount()?, "still busy after the release");
    }
    let (incidents, log) = watch.finish()?;
    let of_others = incidents
        .iter()
        .filter(|incident| incident.target.source.as_deref() != Some("ebusy-cover"));
    ensure!(
        incidents.len() == TURNS && of_others.count() == 0,
        "{incidents:#?}\n{log}"
    );
    Ok(Verdict::Passed)
}

/// The caller ends at once after it was refused, as the `umount` of a kubelet does.
fn caller_is_gone() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let target = scratch.path().as_os_str().to_owned();
    let watch = Watch::start(&["-vv".into(), "--target".into(), target])?;
    let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    let mut pids = Vec::new();
    let mut since = 0;
    for _ in 0..10 {
        since = hold::boot_clock();
        let arguments = [scratch.path().as_os_str(), "1".as_ref(), "0".as_ref()];
        let umounter = Helper::start(&program("umounter")?, &arguments)?;
        pids.push(umounter.pid());
        umounter.finish()?;
    }
    // The holder is there until ebusy has looked at the last attempt: it blocked all of them.
    watch.wait_for_look(scratch.mount_id(), since)?;
    let expectation = Expectation {
        caller: pids[9],
        attempts: 10,
        // On a loaded machine there may be a lull between two of them.
        bursts: None,
        ..Expectation::released(&scratch, vec![Expected::on_target(&holding).for_attempts(10)])
    };
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let (incidents, _) = watch.finish()?;
    expectation.check_only(&incidents)?;
    let mut callers: Vec<_> = incidents[0].callers.iter().map(|caller| caller.pid).collect();
    callers.sort_unstable();
    pids.sort_unstable();
    ensure!(callers == pids, "{callers:?}, expected {pids:?}");
    ensure!(
        incidents[0]
            .callers
            .iter()
            .all(|caller| caller.comm == "umounter"),
        "{incidents:#?}"
    );
    Ok(Verdict::Passed)
}

fn one_of_100_000_descriptors() -> Result<Verdict> {
    let stage = Stage::new()?;
    let scratch = stage.scratch(OsStr::new("target"), FileSystem::Tmpfs)?;
    let path = scratch.join("file");
    stage.explains(&scratch, "hold-fd-crowd", path)
}

/// A FUSE whose server is stopped: a process that walks onto it does not come back.
struct Deaf {
    directory: TempDir,
    holding: Option<Holding>,
}

impl Deaf {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-deaf-").tempdir()?;
        let mut deaf = Self {
            directory,
            holding: None,
        };
        let path = deaf.path().to_owned();
        deaf.holding = Some(Holding::start("hold-deaf-fuse", Namespace::Same, &[path])?);
        Ok(deaf)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The holders and their kinds: the server, and the stuck process.
    fn held(&self) -> Result<Vec<(u32, String)>> {
        let holding = self.holding.as_ref().context("it is mounted")?;
        let claims = holding.claimed.ready.claims.iter();
        Ok(claims
            .map(|claim| (claim.owners[0].pid, claim.kind.clone()))
            .collect())
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // The server first: nobody comes onto the mount before.
        drop(self.holding.take());
        while unmount(self.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// The holders that ebusy found, in the same form.
fn found(holders: &[Holder]) -> Vec<(u32, String)> {
    let mut found: Vec<_> = holders
        .iter()
        .filter_map(|holder| Some((holder.process.as_ref()?.pid, holder.kind.clone())))
        .collect();
    found.sort();
    found
}

/// Every verb that looks at mounts reports this one correctly, and another one.
fn file_system_that_does_not_answer() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let deaf = Deaf::new()?;
    let mut held = deaf.held()?;
    held.sort();
    let watch = Watch::targets(&[scratch.path(), deaf.path()])?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let refused = unmount(deaf.path(), UnmountFlags::empty());
    ensure!(refused == Err(Errno::BUSY), "{refused:?}");

    let expectation = Expectation::released(&scratch, vec![Expected::on_target(&holding)]);
    let (code, answers) = who(scratch.path())?;
    expectation.check_who(code, &answers).context("who")?;
    let (code, answers) = who(deaf.path())?;
    ensure!(
        code == 1 && answers.len() == 1 && found(&answers[0].holders) == held,
        "{code}: {answers:#?}"
    );
    let (code, audit) = Audit::run(&[scratch.path(), deaf.path()])?;
    ensure!(code == 1, "{code}: {audit:#?}");
    for verb in ["who", "doctor"] {
        let finished = ebusy::run(&mut ebusy::command(verb)?)?;
        ensure!(
            finished.status.code().is_some_and(|code| code <= 1),
            "{verb}: {finished:?}"
        );
    }

    harness::settle()?;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let incident = watch.wait_for_incident(scratch.path(), PATIENCE)?;
    expectation.check(&incident)?;
    let deaf_path = deaf.path().to_owned();
    // It ends with its server.
    drop(deaf);
    let (incidents, _) = watch.finish()?;
    let of_deaf = |incident: &&Incident| {
        let path = incident.target.path_bytes();
        path.is_ok_and(|path| path == deaf_path.as_os_str().as_bytes())
    };
    let incident = incidents
        .iter()
        .find(of_deaf)
        .context("no incident of the FUSE")?;
    ensure!(
        incidents.len() == 2 && found(&incident.holders) == held,
        "{incidents:#?}"
    );
    Ok(Verdict::Passed)
}
