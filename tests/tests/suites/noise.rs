//! Real refusals beside a user who makes noise: ebusy explains each, and counts the losses of the noise on that user.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    capture::Capture,
    ebusy::{self, Watch, below},
    harness::{self, Verdict},
    holder::{Helper, Holding, program},
    namespace::Namespace,
    pause,
    recording::Recording,
    report::{self, Incident},
    scratch::{FileSystem, Scratch},
};
use tempfile::TempDir;

/// Lifetime of a holder: far less than a look at everything that the noise does. In an emulated machine with one CPU
/// every look takes about ten times as long.
fn moment() -> Duration {
    Duration::from_millis(if harness::in_machine() { 4000 } else { 300 })
}

/// Refusals of each test.
const REFUSALS: usize = 3;
/// Opens of one source that are recorded in a second (docs/security.md).
const OPENS: u32 = 8192;
/// More files than the ledger has room for in all.
const FILES: u64 = 70_000;
/// The user of `noise`.
const USER: u32 = 65_534;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("beside_a_storm_of_umounts", || calls("umounts", 2, "umount")),
        harness::test("beside_a_storm_of_renames", || {
            calls("renames", 2, "refused call")
        }),
        harness::test("beside_umounts_that_hang", || calls("hanging", 1100, "umount")),
        harness::test("beside_many_mounts", || calls("mounts", 6000, "mount namespace")),
        harness::test("beside_a_storm_of_opens", beside_a_storm_of_opens),
        harness::test("beside_a_storm_of_files", beside_a_storm_of_files),
        harness::test("evidence_stays_beside_a_storm", evidence_stays_beside_a_storm),
    ])
}

/// A directory for everybody.
fn arena() -> Result<TempDir> {
    let arena = tempfile::Builder::new().prefix("ebusy-noise-").tempdir()?;
    fs::set_permissions(arena.path(), fs::Permissions::from_mode(0o777))?;
    Ok(arena)
}

/// Noise, once it is under way.
struct Noise(Helper);

impl Noise {
    fn start(kind: &str, directory: PathBuf, count: u64) -> Result<Self> {
        let arguments = [kind.into(), directory.into_os_string(), count.to_string().into()];
        let helper = Helper::start(&program("noise")?, &arguments)?;
        ensure!(helper.line()? == "loud", "no noise");
        Ok(Self(helper))
    }

    /// Ends it; how many calls it made.
    fn end(mut self) -> Result<u64> {
        self.0.end_input();
        let calls = self.0.line()?.parse()?;
        self.0.finish()?;
        Ok(calls)
    }
}

/// Makes an umount fail because of a momentary holder; returns that holder.
fn refused(scratch: &Scratch) -> Result<u32> {
    let holding = Holding::start_at_once("hold-fd", Namespace::Same, &[scratch.join("upper")])?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    pause::takes(moment(), "how long the holder has it");
    let pid = holding.claimed.ready.pid;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    Ok(pid)
}

/// Asserts that the incident of a mount names the holder, and that its books balance.
fn explained<'i>(incidents: &'i [Incident], scratch: &Scratch, pid: u32) -> Result<&'i Incident> {
    let own = |incident: &&Incident| incident.target.mount_id == Some(scratch.mount_id());
    let incident = incidents.iter().find(own).context("no incident")?;
    let books = &incident.references;
    ensure!(
        (books.explained, books.unexplained) == (1, Some(0)) && books.counted == Some(1),
        "{incident:#?}"
    );
    let holders: Vec<u32> = (incident.holders.iter())
        .filter_map(|holder| holder.process.as_ref())
        .map(|process| process.pid)
        .collect();
    ensure!(holders == [pid], "{holders:?}, not {pid}");
    Ok(incident)
}

/// Beside calls that have nothing to do with a real refusal.
fn calls(kind: &str, count: u64, lost: &str) -> Result<Verdict> {
    let arena = arena()?;
    let scratches: Vec<Scratch> = (0..REFUSALS)
        .map(|_| Scratch::new(FileSystem::Tmpfs))
        .collect::<Result<_>>()?;
    let targets: Vec<_> = scratches.iter().map(Scratch::path).collect();
    let watch = Watch::targets(&targets)?;
    harness::settle()?;
    let noise = Noise::start(kind, arena.path().to_owned(), count)?;
    let pids: Vec<u32> = scratches.iter().map(refused).collect::<Result<_>>()?;
    let made = noise.end()?;
    let (incidents, log) = watch.finish()?;
    for (scratch, pid) in scratches.iter().zip(pids) {
        let incident = explained(&incidents, scratch, pid).with_context(|| log.clone())?;
        ensure!(
            incident.noise.is_empty(),
            "the noise touches it: {:?}",
            incident.noise
        );
    }
    let total = log
        .lines()
        .find(|line| line.starts_with("in all:"))
        .context("no summary")?;
    let told = total
        .split("; ")
        .find(|part| part.contains(&format!("of user {USER} (")));
    let told = told.with_context(|| format!("{made} calls, and none was lost: {log}"))?;
    ensure!(told.contains(lost), "{told}");
    Ok(Verdict::Passed)
}

/// Opens of others may be the holder: then the incident says that it is incomplete.
fn beside_a_storm_of_opens() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = Scratch::new(FileSystem::Tmpfs)?;
    for path in [other.directory(), other.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let watch = Watch::targets(&[scratch.path(), other.path()])?;
    harness::settle()?;
    let noise = Noise::start("opens", other.path().to_owned(), 0)?;
    let began = Instant::now();
    let pid = refused(&scratch)?;
    let rate = noise.end()? as f64 / began.elapsed().as_secs_f64();
    let (incidents, log) = watch.finish()?;
    let incident = explained(&incidents, &scratch, pid).with_context(|| log.clone())?;
    if rate < 2.0 * f64::from(OPENS) {
        return Ok(Verdict::Skipped(format!("{rate:.0} opens a second are no storm")));
    }
    let noise = incident.noise.first().with_context(|| log.clone())?;
    ensure!(noise.by.uid == Some(USER) && noise.lost > 0, "{noise:?}");
    ensure!(incident.lost_events >= noise.lost, "{}", incident.lost_events);
    Ok(Verdict::Passed)
}

/// Open files of other users leave room in the ledger for those of the host.
fn beside_a_storm_of_files() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = Scratch::new(FileSystem::Tmpfs)?;
    for path in [other.directory(), other.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let watch = Watch::targets(&[scratch.path(), other.path()])?;
    harness::settle()?;
    let noise = Noise::start("files", other.path().to_owned(), FILES)?;
    harness::settle()?;
    let pid = refused(&scratch)?;
    noise.end()?;
    let (incidents, log) = watch.finish()?;
    explained(&incidents, &scratch, pid).with_context(|| log.clone())?;
    let total = log.lines().find(|line| line.starts_with("in all:"));
    let total = total.context("no summary")?;
    if total.contains("tier tracepoint") {
        return Ok(Verdict::Skipped("this tier has no ledger".to_owned()));
    }
    ensure!(total.contains("; 0 lost;"), "{total}");
    let told = format!("of user {USER} (");
    ensure!(total.contains(&told), "{total}");
    Ok(Verdict::Passed)
}

/// A small folder has the refusals before the noise, and names those that are not in it.
fn evidence_stays_beside_a_storm() -> Result<Verdict> {
    let arena = arena()?;
    let folder = tempfile::Builder::new().prefix("ebusy-evidence-").tempdir()?;
    let folder_path = folder.path().join("capture");
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let recording = Recording::start(&folder_path, scratch.path(), &["--all", "--max-size", "1M"])?;
    let pid = refused(&scratch)?;
    let noise = Noise::start("umounts", arena.path().to_owned(), 2)?;
    pause::takes(Duration::from_secs(4), "a storm that would fill a megabyte");
    noise.end()?;
    let finished = recording.finish()?;
    let mut report = Command::new(ebusy::binary()?);
    let report = ebusy::run(report.args(["report", "--format", "json"]).arg(&folder_path))?;
    let lines = String::from_utf8(report.stdout)?;
    let incidents = below(scratch.directory(), report::incidents(&lines)?);
    explained(&incidents, &scratch, pid).with_context(|| finished.stderr.clone())?;
    let capture = Capture::read(&folder_path)?;
    let noise = capture
        .of("lost")
        .last()
        .map(|lost| lost["noise"].to_string())
        .unwrap_or_default();
    ensure!(noise.contains("capture: umount not written"), "{noise}");
    Ok(Verdict::Passed)
}
