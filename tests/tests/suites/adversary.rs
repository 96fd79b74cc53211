//! A user without privilege does anything that may disturb ebusy, at random, while once a second an umount of a watched
//! mount is refused because of a known holder: ebusy explains each refusal, blames nobody else, does not hang or grow,
//! and a signal ends it at any time.
//!
//! `EBUSY_ADVERSARY_SEED` replays a run as far as possible, `EBUSY_ADVERSARY_SECONDS=1800` makes a long one,
//! `EBUSY_ADVERSARY_RATE` sets the calls per second (0: as many as possible).

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    adversary::{Adversary, NOBODY, Settings, is_only_text},
    ebusy::{self, Finished, Running, command},
    expect::{Expectation, Expected},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    namespace::Namespace,
    pause,
    report::{self, Incident},
    scratch::{FileSystem, Scratch},
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Time between two refusals.
const RHYTHM: Duration = Duration::from_secs(1);
/// Limit of ebusy's memory, KiB: that of a recorder on a quiet system (see `soak`), and as much again for the tables of
/// processes, mounts and incidents of a noisy one.
const MEMORY_MAX: u64 = 2 * (192 << 10);
/// ebusy looks at a refusal within this time, also on an emulated machine.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// After a signal, ebusy prints its last lines within the first of these times, and ends within the other: the kernel
/// detaches its programs one after the other and waits for all CPUs each time, which takes longer on a loaded machine, and
/// longer still on an emulated one.
fn end_max() -> [Duration; 2] {
    let seconds = if harness::in_machine() { [5, 30] } else { [1, 5] };
    seconds.map(Duration::from_secs)
}

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("watch_explains_every_refusal", watch),
        harness::test("record_explains_every_refusal", record),
    ])
}

/// A refused mount and its holder.
struct Turn {
    scratch: Scratch,
    holder: Expected,
    /// Time until all ebusies had looked.
    took: Duration,
}

impl Turn {
    fn play(parent: &Path, number: u64) -> Result<Self> {
        let begun = Instant::now();
        let name = OsString::from(format!("turn-{number}"));
        let scratch = Scratch::within(parent, &name, FileSystem::Tmpfs)?;
        let holding = Holding::start_at_once("hold-fd", Namespace::Same, &[scratch.join("file")])?;
        let refused = Instant::now();
        ensure!(!scratch.umount()?, "the umount was not refused");
        harness::settle()?;
        let took = refused.elapsed();
        let holder = Expected::on_target(&holding).at_once();
        holding.release()?;
        ensure!(scratch.umount()?, "turn {number}: still busy after the release");
        pause::takes(
            RHYTHM.saturating_sub(begun.elapsed()),
            "the rhythm of the refusals",
        );
        Ok(Self {
            scratch,
            holder,
            took,
        })
    }

    /// The reason if the report about it is wrong.
    fn problem(&self, incidents: &[Incident]) -> Option<String> {
        let path = self.scratch.path();
        let is_its = |incident: &&Incident| Path::new(&incident.target.path) == path;
        let found: Vec<&Incident> = incidents.iter().filter(is_its).collect();
        let [incident] = found[..] else {
            return Some(format!("{}: {} incidents", path.display(), found.len()));
        };
        let all = incident
            .holders
            .iter()
            .chain(&incident.candidates)
            .chain(&incident.bystanders);
        let mut users = all.filter_map(|holder| holder.process.as_ref()?.uid);
        if users.any(|uid| uid == NOBODY) {
            return Some(format!("an innocent is accused: {incident:#?}"));
        }
        let holder = self.holder.claimed.ready.pid;
        let mut processes = incident
            .holders
            .iter()
            .filter_map(|holder| holder.process.as_ref());
        if !processes.any(|process| process.pid == holder) {
            return Some(format!("{holder} is not named: {incident:#?}"));
        }
        // Losses are counted, and only after a loss the books need not be exact.
        let mut expectation = Expectation::released(&self.scratch, vec![self.holder.clone()]);
        expectation.lost_events = incident.lost_events;
        let error = expectation.check(incident).err()?;
        if incident.lost_events > 0 {
            println!("{}: something was lost, which it says", path.display());
            return None;
        }
        Some(format!("{error:#}"))
    }
}

/// Refusals in the presence of an adversary, and its actions meanwhile.
struct Played {
    turns: Vec<Turn>,
    finished: Vec<Finished>,
}

/// Runs it beside refusals; ends these ebusies while it is still active.
fn play(parent: &Path, runs: Vec<Running>) -> Result<Played> {
    let settings = Settings::of_environment()?;
    println!("\n{settings:?}");
    let adversary = Adversary::start(settings)?;
    let begun = Instant::now();
    let mut turns = Vec::new();
    while begun.elapsed() < settings.time {
        let turn = Turn::play(parent, turns.len() as u64);
        turns.push(turn.with_context(|| logs(&runs))?);
    }
    let mut finished = Vec::new();
    for run in runs {
        let memory = run.most_memory()?;
        let asked = Instant::now();
        run.signal(Signal::TERM)?;
        run.wait_for("in all: ")?;
        let said = asked.elapsed();
        let status = pause::until(PATIENCE, || run.try_wait()).with_context(|| run.log())?;
        let took = asked.elapsed();
        println!(
            "memory {memory} KiB at the most, all said after {} ms, ended after {} ms",
            said.as_millis(),
            took.as_millis()
        );
        ensure!(memory <= MEMORY_MAX, "{memory} KiB of memory");
        let most = end_max();
        ensure!(
            said <= most[0] && took <= most[1],
            "it had said all after {said:?}, and took {took:?} to end ({status})\n{}",
            run.log()
        );
        let run = run.finished(status)?;
        run.expect_code(0)?;
        finished.push(run);
    }
    let counts = adversary.finish()?;
    println!("{counts:?}");
    is_at_work(&counts)?;
    let longest = turns.iter().map(|turn| turn.took).max().unwrap_or_default();
    println!(
        "{} refusals, looked at within {} ms",
        turns.len(),
        longest.as_millis()
    );
    ensure!(longest <= LOOK_MAX, "a look took {longest:?}");
    Ok(Played { turns, finished })
}

fn logs(runs: &[Running]) -> String {
    let logs: Vec<String> = runs.iter().map(Running::log).collect();
    logs.join("\n")
}

/// Asserts that it was active: calls that fail, and more than half of its actions.
fn is_at_work(counts: &BTreeMap<String, [u64; 2]>) -> Result<()> {
    let does = |what: &str| counts.get(what).is_some_and(|[done, _]| *done > 0);
    let kinds = counts.keys().filter(|what| does(what)).count();
    ensure!(
        does("calls that fail") && kinds > counts.len() / 2,
        "it did little: {counts:?}"
    );
    Ok(())
}

/// Every refusal has its incident, and the watched mounts have no others.
fn check(parent: &Path, turns: &[Turn], incidents: Vec<Incident>, log: &str) -> Result<()> {
    let ours = ebusy::below(parent, incidents);
    let lossy = ours.iter().filter(|incident| incident.lost_events > 0).count();
    println!(
        "{} incidents, {lossy} of them say that something was lost",
        ours.len()
    );
    let problems: Vec<String> = turns.iter().filter_map(|turn| turn.problem(&ours)).collect();
    ensure!(
        problems.is_empty(),
        "{} of {} refusals are not explained\n{}\n{log}",
        problems.len(),
        turns.len(),
        problems.join("\n")
    );
    ensure!(
        ours.len() == turns.len(),
        "{} incidents of {} refusals",
        ours.len(),
        turns.len()
    );
    Ok(())
}

fn directory(what: &str) -> Result<TempDir> {
    let prefix = format!("ebusy-{what}-");
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Includes its reports about the adversary's own mounts.
fn watch() -> Result<Verdict> {
    let (parent, out) = (directory("watched")?, directory("out")?);
    let file = out.path().join("incidents.jsonl");
    let start = |arguments: &[&OsStr]| -> Result<Running> {
        let mut command = command("watch")?;
        let running = Running::start(command.arg("--no-capture").args(arguments))?;
        running.wait_for("watching")?;
        Ok(running)
    };
    let below = parent.path().join("**");
    let json = ["--format", "json", "-o"].map(OsStr::new);
    let told = start(
        &[
            &json[..],
            &[file.as_os_str(), OsStr::new("--target"), below.as_os_str()],
        ]
        .concat(),
    )?;
    let all = start(&[OsStr::new("--all")])?;
    let Played { turns, finished } = play(parent.path(), vec![told, all])?;
    for run in &finished {
        is_only_text("standard output", &run.stdout)?;
        is_only_text("standard error", run.stderr.as_bytes())?;
    }
    let incidents = report::incidents(&std::fs::read_to_string(file)?)?;
    check(parent.path(), &turns, incidents, &finished[0].stderr)?;
    let shown = String::from_utf8_lossy(&finished[1].stdout);
    ensure!(
        turns
            .iter()
            .all(|turn| shown.contains(&*turn.scratch.path().to_string_lossy())),
        "not all are in the text"
    );
    Ok(Verdict::Passed)
}

/// Includes the contents of the capture afterwards.
fn record() -> Result<Verdict> {
    let (parent, out) = (directory("recorded")?, directory("capture")?);
    let folder = out.path().join("capture");
    let mut command = command("record")?;
    command.args(["--history", "--all", "-o"]).arg(&folder);
    let running = Running::start(command.arg("--target").arg(parent.path().join("**")))?;
    running.wait_for("watching")?;
    let Played { turns, finished } = play(parent.path(), vec![running])?;
    is_only_text("standard error", finished[0].stderr.as_bytes())?;
    let report = |arguments: &[&str]| -> Result<Finished> {
        let mut command = std::process::Command::new(ebusy::binary()?);
        let finished = ebusy::run(command.arg("report").arg(&folder).args(arguments))?;
        finished.expect_code(0)?;
        Ok(finished)
    };
    let json = report(&["--format", "json"])?;
    let incidents = report::incidents(str::from_utf8(&json.stdout)?)?;
    check(parent.path(), &turns, incidents, &finished[0].stderr)?;
    for arguments in [&["--summary"][..], &["--commands"], &["--format", "html"]] {
        let finished = report(arguments)?;
        ensure!(!finished.stdout.is_empty(), "{arguments:?}");
        is_only_text(arguments[0], &finished.stdout)?;
        is_only_text(arguments[0], finished.stderr.as_bytes())?;
    }
    Ok(Verdict::Passed)
}
