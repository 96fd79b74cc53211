//! ebusy reports slow umounts while they run and when they finish, with the phases that took the time; it never reports
//! fast ones.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    slice,
    sync::{PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Running},
    harness::{self, Verdict},
    holder::{Holding, PATIENCE, program},
    namespace::Namespace,
    pause,
    report::{self, Incident},
    scratch::{FileSystem, Scratch},
    slow_disk::SlowDisk,
};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};
use tempfile::TempDir;

pub(crate) fn main() -> ExitCode {
    let tests = vec![
        harness::test("slow_disk", slow_disk),
        harness::test("slow_disk_recorded_and_detached", recorded_and_detached),
        harness::test("slow_disk_but_not_asked_for", not_asked_for),
        harness::test("slow_lookup_that_fails", lookup_that_fails),
        harness::test("slow_none_is_told", none_is_told),
    ];
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 4)
}

/// How long a page takes: a few are written at the umount.
const PAGE: Duration = Duration::from_millis(700);

/// Unmounts it with recently dirtied pages, since the kernel writes back older ones by itself; returns the time.
fn slow_umount(target: &SlowDisk, flags: UnmountFlags) -> Result<Duration> {
    fs::write(target.path.join("file"), vec![b'x'; 3 * 4096])?;
    target.disk.take(PAGE);
    let began = Instant::now();
    unmount(&target.path, flags)?;
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(1500), "the disk was quick: {took:?}");
    Ok(took)
}

/// Held for writing while an umount hangs: an ebusy that starts meanwhile has not seen its entry, and counts it as lost.
static HANGING: RwLock<()> = RwLock::new(());

/// `ebusy watch` or `record`, with its output.
struct Watch {
    running: Running,
    directory: TempDir,
    verb: &'static str,
}

impl Watch {
    fn start(verb: &'static str, below: &Path, more: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-out-").tempdir()?;
        let mut command = ebusy::command(verb)?;
        command.arg("--target").arg(below.join("**")).args(more);
        if verb == "record" {
            command.arg("-o").arg(directory.path().join("capture"));
        } else {
            command.arg("--capture").arg(directory.path().join("capture"));
            command.arg("-o").arg(directory.path().join("text"));
        }
        let running = {
            let _none_hangs = HANGING.read().unwrap_or_else(PoisonError::into_inner);
            let running = Running::start(&mut command)?;
            running.wait_for("watching")?;
            running
        };
        harness::settle()?;
        Ok(Self {
            running,
            directory,
            verb,
        })
    }

    fn text(&self) -> String {
        fs::read_to_string(self.directory.path().join("text")).unwrap_or_default()
    }

    /// Waits until it prints that.
    fn says(&self, words: &str) -> Result<()> {
        pause::until(PATIENCE, || Ok(self.text().contains(words).then_some(())))
            .with_context(|| format!("not said: {words}\n{}\n{}", self.text(), self.running.log()))
    }

    /// Ends it; returns its last summary, its lines about slow umounts, and the incidents that another run finds in its
    /// capture.
    fn finish(self) -> Result<(String, String, Vec<Incident>)> {
        self.running.signal(Signal::INT)?;
        let status = self.running.wait()?;
        let text = self.text();
        let finished = self.running.finished(status)?;
        finished.expect_code(0)?;
        let mut command = Command::new(ebusy::binary()?);
        command.args(["report", "--format", "json"]);
        let report = ebusy::run(command.arg(self.directory.path().join("capture")))?;
        let incidents = report::incidents(&String::from_utf8(report.stdout)?)?;
        ensure!(self.verb == "record" || incidents.is_empty() || !text.is_empty());
        Ok((finished.stderr, text, incidents))
    }
}

fn seconds(from: &str, to: &str) -> Result<f64> {
    let time = |text: &str| text.parse::<jiff::Timestamp>().with_context(|| text.to_owned());
    Ok(time(to)?.duration_since(time(from)?).as_secs_f64())
}

/// The only incident, of this target by this process, which took that long.
fn only(incidents: &[Incident], path: &Path, outcome: &str, took: Duration, told: &str) -> Result<Incident> {
    ensure!(incidents.len() == 1, "{incidents:#?}\n{told}");
    let incident = incidents[0].clone();
    ensure!(
        incident.operation == "slow_umount"
            && incident.outcome.as_deref() == Some(outcome)
            && incident.target.path == path.to_string_lossy()
            && (incident.attempts, incident.lost_events) == (0, 0)
            && incident.holders.is_empty(),
        "{incident:#?}\n{told}"
    );
    let ended = incident.ended.as_deref().context("an end")?;
    let lasted = seconds(&incident.started, ended)?;
    // ebusy checks five times a second if it is over.
    let more = if harness::in_machine() { 2.0 } else { 0.6 };
    ensure!(
        lasted > took.as_secs_f64() - 0.1 && lasted < took.as_secs_f64() + more,
        "{lasted} s, in truth {took:?}\n{incident:#?}\n{told}"
    );
    Ok(incident)
}

/// It waits for the disk, in a sync after the mount is gone.
fn expect_disk(incident: &Incident) -> Result<()> {
    let slow = incident.slow.as_ref().context("slow")?;
    let looks: u64 = slow.waits.iter().map(|wait| wait.looks).sum();
    let of_disk: u64 = slow
        .waits
        .iter()
        .filter(|wait| {
            let freeing = wait.stack.iter().any(|function| function == "task_work_run");
            freeing && wait.phase == "sync" && wait.waits_for.as_deref() == Some("device")
        })
        .map(|wait| wait.looks)
        .sum();
    ensure!(
        slow.error.is_none() && slow.looks >= 4 && looks == slow.looks && of_disk * 2 > looks,
        "{of_disk} of {looks}\n{incident:#?}"
    );
    let answered = slow.answered.as_deref().context("it has a result")?;
    ensure!(seconds(&incident.started, answered)? < 0.5, "{incident:#?}");
    ensure!(
        incident.fixes.iter().any(|fix| fix.reads().contains("sync -f")),
        "{incident:#?}"
    );
    Ok(())
}

fn slow_disk() -> Result<Verdict> {
    let target = SlowDisk::new()?;
    let watch = Watch::start("watch", target.scratch.path(), &[])?;
    let took = thread::scope(|scope| {
        let umount = scope.spawn(|| slow_umount(&target, UnmountFlags::empty()));
        let told = watch.says(" so far");
        let early = !umount.is_finished();
        let took = umount
            .join()
            .map_err(|_| anyhow::anyhow!("the umount panicked"))??;
        told?;
        ensure!(early, "told only when it was over, after {took:?}");
        Ok(took)
    })?;
    watch.says("took ")?;
    let (log, text, incidents) = watch.finish()?;
    let incident = only(&incidents, &target.path, "released", took, &text)?;
    ensure!(
        incident.caller.pid == std::process::id() && incident.target.fs_type.as_deref() == Some("ext2"),
        "{incident:#?}"
    );
    expect_disk(&incident)?;
    for words in [
        "SLOW   umount of ",
        "writing back dirty data (sync), waits for the disk",
        "until the file system was freed",
    ] {
        ensure!(text.contains(words), "{words}\n{text}");
    }
    ensure!(log.contains(", 1 slow"), "{log}");
    Ok(Verdict::Passed)
}

/// A caller that detaches waits as well. The capture has it, for a report made elsewhere.
fn recorded_and_detached() -> Result<Verdict> {
    let target = SlowDisk::new()?;
    let watch = Watch::start("record", target.scratch.path(), &["--slow", "0.5"])?;
    let took = slow_umount(&target, UnmountFlags::DETACH)?;
    harness::settle()?;
    let (log, _, mut incidents) = watch.finish()?;
    incidents.retain(|incident| incident.operation != "detach");
    let incident = only(&incidents, &target.path, "detached", took, &log)?;
    ensure!(incident.flags == ["MNT_DETACH"], "{incident:#?}");
    expect_disk(&incident)?;
    Ok(Verdict::Passed)
}

fn not_asked_for() -> Result<Verdict> {
    let target = SlowDisk::new()?;
    let watch = Watch::start("watch", target.scratch.path(), &["--slow", "0"])?;
    slow_umount(&target, UnmountFlags::empty())?;
    harness::settle()?;
    let (log, text, incidents) = watch.finish()?;
    ensure!(
        incidents.is_empty() && text.is_empty() && !log.contains(" slow;"),
        "{incidents:#?}\n{log}"
    );
    Ok(Verdict::Passed)
}

/// A server does not answer: ebusy reports this before anything is unmounted. Tiers that hook the kernel's functions
/// see the umount only after the lookup, so they report nothing.
fn lookup_that_fails() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Fuse)?;
    let watch = Watch::start("watch", scratch.directory(), &[])?;
    let tracepoint = watch.running.log().contains("; tier tracepoint");
    let path = scratch.join("nowhere");
    let hangs = HANGING.write().unwrap_or_else(PoisonError::into_inner);
    let mut umount = Command::new(program("umounter")?)
        .arg(&path)
        .args(["1", "0"])
        .stdout(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    let told = if tracepoint {
        watch.says(" so far")
    } else {
        pause::nothing_happens_for(
            Duration::from_secs(2),
            "where an umount begins after the lookup, a lookup that takes longer than the limit is none",
        );
        Ok(())
    };
    umount.kill()?;
    umount.wait()?;
    drop(hangs);
    let took = began.elapsed();
    told?;
    if !tracepoint {
        let (_, text, incidents) = watch.finish()?;
        ensure!(incidents.is_empty(), "{incidents:#?}\n{text}");
        return Ok(Verdict::Passed);
    }
    watch.says("failed with")?;
    let (_, text, incidents) = watch.finish()?;
    let incident = only(&incidents, &path, "failed", took, &text)?;
    let slow = incident.slow.as_ref().context("slow")?;
    let [wait] = slow.waits.as_slice() else {
        anyhow::bail!("{incident:#?}")
    };
    ensure!(
        incident.caller.pid == umount.id()
            && slow.error.is_some()
            && wait.phase == "lookup"
            && wait.waits_for.as_deref() == Some("fuse_server"),
        "{incident:#?}"
    );
    Ok(Verdict::Passed)
}

/// Umounts that take no time, in a thread that spends long in other calls between them, and one that is refused.
fn none_is_told() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let path = scratch.join("quick");
    fs::create_dir(&path)?;
    let watch = Watch::start("watch", scratch.path(), &["--slow", "0.3"])?;
    for round in 0..4 {
        mount("ebusy-quick", &path, "tmpfs", MountFlags::empty(), None)?;
        if round == 1 {
            let holding = Holding::start("hold-cwd", Namespace::Same, slice::from_ref(&path))?;
            ensure!(
                unmount(&path, UnmountFlags::empty()).is_err(),
                "it was not refused"
            );
            holding.release()?;
        }
        let began = Instant::now();
        unmount(&path, UnmountFlags::empty())?;
        ensure!(
            began.elapsed() < Duration::from_millis(300),
            "this machine is slow"
        );
        let busy = Instant::now();
        while round % 2 == 0 && busy.elapsed() < Duration::from_millis(700) {
            std::hint::spin_loop();
        }
        pause::takes(
            Duration::from_millis(400),
            "the thread does nothing for longer than the limit",
        );
    }
    let (log, text, mut incidents) = watch.finish()?;
    incidents.retain(|incident| incident.operation != "umount2");
    ensure!(
        incidents.is_empty() && !text.contains("SLOW") && !log.contains(" slow;"),
        "{incidents:#?}\n{text}\n{log}"
    );
    Ok(Verdict::Passed)
}
