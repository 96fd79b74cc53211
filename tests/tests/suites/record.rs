//! `ebusy record`, and the faults of weeks: kills, full disks, stops, floods. Generated events = recorded + counted as
//! lost.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    capture::{self, Capture},
    ebusy::{self, command},
    harness::{self, Verdict},
    holder::PATIENCE,
    namespace::Namespace,
    pause,
    recording::{Balance, Recording},
    report::{self, Incident},
    scratch::{FileSystem, Scratch},
    soak::{self, Soak},
    steps::{hold_fd, refused, release},
};
use jiff::Timestamp;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
    time::{ClockId, clock_gettime, clock_settime},
};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("record_kill_9", kill_9),
        harness::test("record_sigterm_and_sighup", sigterm_and_sighup),
        harness::test("record_second_recorder", second_recorder),
        harness::test("limit_of_a_folder", folder_limit),
        harness::test("record_disk_full", disk_full),
        harness::test("record_stopped", stopped),
        harness::test("record_clock_stepped", clock_stepped),
        harness::test("record_usage", usage),
        harness::test("watch_and_who_redacted", redacted),
        harness::test("watch_evidence", watch_evidence),
        harness::test("capture_on_what_is_watched", on_what_is_watched),
        harness::test("soak", soak),
    ])
}

fn own() -> u32 {
    std::process::id()
}

/// Opens and closes a file so many times.
fn open(scratch: &Scratch, times: u64) -> Result<u64> {
    let file = scratch.join("file");
    for _ in 0..times {
        File::open(&file)?;
    }
    Ok(times)
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    pause::until(PATIENCE, || Ok(done()?.then_some(()))).with_context(|| format!("waiting for {what}"))
}

/// The data on the disk is readable, and the next run continues in the same folder.
fn kill_9() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = tempfile::tempdir()?;
    let recording = Recording::start(folder.path(), scratch.path(), &[])?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    refused(&scratch, 3)?;
    let opens = open(&scratch, 1000)?;
    wait_until("all of it to be on the disk", || {
        let capture = Capture::read(folder.path())?;
        Ok(Balance::of(&capture, own(), opens).check().is_ok())
    })?;
    recording.kill()?;
    let killed = Capture::read(folder.path())?;
    ensure!(!killed.closed, "a killed recorder closed its segment");
    Balance::of(&killed, own(), opens).check()?;
    // Containers of the host are recorded as well.
    let attempts = killed
        .of("umount")
        .filter(|umount| umount["ret"] == -16 && umount["caller"]["pid"] == own());
    let attempts = attempts.count();
    ensure!(attempts == 3, "{attempts} attempts in {:#?}", killed.records);
    ensure!(killed.of("snapshot").count() > 0, "no snapshot");

    let recording = Recording::start(folder.path(), scratch.path(), &[])?;
    release(&scratch, [holding])?;
    recording.finish()?.expect_code(0)?;
    let both = Capture::read(folder.path())?;
    ensure!(both.closed && both.headers.len() == 2, "{:#?}", both.headers);
    let run = |at: usize| &both.headers[at]["start"]["run"];
    ensure!(run(0) != run(1), "{:#?}", both.headers);
    ensure!(
        both.of("umount").any(|umount| umount["ret"] == 0),
        "the umount at last is not there"
    );
    Ok(Verdict::Passed)
}

fn sigterm_and_sighup() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let parent = tempfile::tempdir()?;
    let folder = parent.path().join("capture");
    let recording = Recording::start(&folder, scratch.path(), &[])?;
    let mut opens = open(&scratch, 100)?;
    recording.running.signal(Signal::HUP)?;
    wait_until("a second segment", || Ok(capture::segments(&folder)?.len() == 2))?;
    opens += open(&scratch, 100)?;
    let finished = recording.finish()?;
    finished.expect_code(0)?;
    ensure!(finished.stderr.contains("recorded "), "{}", finished.stderr);
    let capture = Capture::read(&folder)?;
    ensure!(
        capture.closed && capture.headers.len() == 2,
        "{:#?}",
        capture.headers
    );
    ensure!(
        capture.headers[0]["start"]["run"] == capture.headers[1]["start"]["run"],
        "{:#?}",
        capture.headers
    );
    ensure!(
        capture
            .records
            .last()
            .is_some_and(|record| record["record"] == "end"),
        "it does not end"
    );
    Balance::of(&capture, own(), opens).check()?;
    let mode = |path: &Path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(&folder)? == 0o700, "{:o}", mode(&folder)?);
    for segment in capture::segments(&folder)? {
        ensure!(mode(&segment)? == 0o600, "{:o}", mode(&segment)?);
    }
    Ok(Verdict::Passed)
}

fn second_recorder() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = tempfile::tempdir()?;
    let recording = Recording::start(folder.path(), scratch.path(), &[])?;
    let refused = ebusy::run(command("record")?.arg("-o").arg(folder.path()))?;
    refused.expect_code(2)?;
    let pid = format!("pid {}", recording.running.pid());
    ensure!(refused.stderr.contains(&pid), "{}", refused.stderr);
    let opens = open(&scratch, 100)?;
    recording.finish()?.expect_code(0)?;
    Balance::of(&Capture::read(folder.path())?, own(), opens).check()?;
    Ok(Verdict::Passed)
}

/// The oldest segments go before the folder exceeds its limit; the rest is intact.
fn folder_limit() -> Result<Verdict> {
    const LIMIT: u64 = 1 << 20;
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = tempfile::tempdir()?;
    let recording = Recording::start(folder.path(), scratch.path(), &["--max-size", "1M"])?;
    let (mut opens, mut largest) = (0, 0);
    let first = capture::segments(folder.path())?;
    wait_until("the first segment to go", || {
        opens += open(&scratch, 5000)?;
        largest = largest.max(capture::size(folder.path())?);
        ensure!(largest <= LIMIT, "{largest} bytes");
        Ok(!first[0].exists())
    })?;
    let finished = recording.finish()?;
    finished.expect_code(0)?;
    ensure!(
        finished.stderr.contains("old segments removed"),
        "{}",
        finished.stderr
    );
    ensure!(
        capture::size(folder.path())? <= LIMIT,
        "over its limit at the end"
    );
    let capture = Capture::read(folder.path())?;
    let before = capture.headers[0]["first_record"]
        .as_u64()
        .context("first_record")?;
    ensure!(before > 0, "{:#?}", capture.headers);
    println!("folder limit: {opens} opens, {largest} bytes at the most, {before} records removed");
    Ok(Verdict::Passed)
}

/// A file system of its own that is small.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        mount(
            "ebusy-disk",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=1m"),
        )?;
        Ok(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk up to this many free bytes.
    fn fill(&self, but: usize) -> Result<PathBuf> {
        use std::io::Write as _;
        let path = self.path().join("filler");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata()?.len();
        file.set_len(length - but as u64)?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// It says so, continues to watch, counts, and writes again when there is room.
fn disk_full() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let disk = SmallDisk::new()?;
    let folder = disk.path().join("capture");
    let recording = Recording::start(&folder, scratch.path(), &[])?;
    let filler = disk.fill(16 << 10)?;
    let mut opens = 0;
    wait_until("the disk to be full", || {
        opens += open(&scratch, 2000)?;
        Ok(recording.running.log().contains("NOT RECORDING"))
    })?;
    opens += open(&scratch, 2000)?;
    recording.running.catch_up()?;
    fs::remove_file(filler)?;
    wait_until("the recording to go on", || {
        opens += open(&scratch, 1)?;
        Ok(recording.running.log().contains("recording again"))
    })?;
    opens += open(&scratch, 100)?;
    recording.running.wait_for("ebusy: ")?;
    let finished = recording.finish()?;
    finished.expect_code(0)?;
    let capture = Capture::read(&folder)?;
    let balance = Balance::of(&capture, own(), opens);
    ensure!(capture.closed && balance.not_written > 0, "{balance:?}");
    balance.check()?;
    println!("disk full: {balance:?}");
    Ok(Verdict::Passed)
}

/// Nobody reads the kernel's records, until the ring is full.
fn stopped() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = tempfile::tempdir()?;
    let recording = Recording::start(folder.path(), scratch.path(), &[])?;
    recording.running.signal(Signal::STOP)?;
    let mut opens = open(&scratch, 60_000)?;
    recording.running.signal(Signal::CONT)?;
    opens += open(&scratch, 100)?;
    recording.finish()?.expect_code(0)?;
    let balance = Balance::of(&Capture::read(folder.path())?, own(), opens);
    ensure!(balance.lost_in_ring > 0, "{balance:?}");
    balance.check()?;
    println!("stopped: {balance:?}");
    Ok(Verdict::Passed)
}

/// The wall clock goes forward by an hour, and back by two.
fn clock_stepped() -> Result<Verdict> {
    if !harness::in_machine() {
        return Ok(Verdict::Skipped(
            "it sets the wall clock: only in a virtual machine".to_owned(),
        ));
    }
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = tempfile::tempdir()?;
    let began = Timestamp::now();
    let recording = Recording::start(folder.path(), scratch.path(), &[])?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let first = Instant::now();
    let mut opens = open(&scratch, 100)?;
    refused(&scratch, 2)?;
    for (segments, hours) in [(2, 1), (3, -2)] {
        step(hours * 3600)?;
        wait_until("a segment after a step", || {
            opens += open(&scratch, 1)?;
            Ok(capture::segments(folder.path())?.len() == segments)
        })?;
        refused(&scratch, 2)?;
    }
    let lasted = first.elapsed();
    // Still held: the holder's close would be one more that is not ours.
    recording.finish()?.expect_code(0)?;
    step(3600)?;
    release(&scratch, [holding])?;
    let capture = Capture::read(folder.path())?;
    Balance::of(&capture, own(), opens).check()?;
    let ahead: Vec<i64> = capture
        .headers
        .iter()
        .map(ahead)
        .collect::<Option<_>>()
        .context("anchors")?;
    ensure!(
        ahead == [0, 3600, -3600],
        "{ahead:?} s ahead in {:#?}",
        capture.headers
    );

    let told = ebusy::run(command("report")?.arg(folder.path()).args(["--format", "json"]))?;
    told.expect_code(0)?;
    // Between the step and the look at the clocks some time passes.
    let steps = told.stderr.split("stepped by ").skip(1).map(|rest| {
        let (seconds, _) = rest.split_once(' ').context("no seconds")?;
        Ok(seconds.parse::<f64>()?.round())
    });
    let steps: Vec<f64> = steps.collect::<Result<_>>()?;
    ensure!(steps == [3600.0, -7200.0], "{}", told.stderr);
    let incidents: Vec<Incident> = report::incidents(&String::from_utf8(told.stdout)?)?;
    let [incident] = &incidents[..] else {
        anyhow::bail!("{incidents:#?}")
    };
    ensure!(
        incident.attempts == 6 && incident.holders.len() == 1,
        "{incident:#?}"
    );
    let started: Timestamp = incident.started.parse()?;
    let ended: Timestamp = incident.ended.as_deref().context("it has not ended")?.parse()?;
    // By the clock that it began with, and as long as it was.
    let whole = jiff::SignedDuration::try_from(lasted)?;
    let took = ended.duration_since(started);
    let apart = (took - whole).abs();
    let after = started.duration_since(began);
    ensure!(
        apart.as_secs() < 5 && (0..60).contains(&after.as_secs()),
        "it began {after:?} after the test, and lasted {took:?} in place of {whole:?}"
    );
    println!("clock stepped: {ahead:?} s, an incident of {took:?}");
    Ok(Verdict::Passed)
}

/// Sets the wall clock.
fn step(seconds: i64) -> Result<()> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec += seconds;
    clock_settime(ClockId::Realtime, now).context("setting the clock")
}

/// By how many seconds the wall clock was ahead of that of its run when a segment was begun.
fn ahead(header: &serde_json::Value) -> Option<i64> {
    let clock = &header["clock"];
    let (boot, wall) = (clock["boot_nanos"].as_i64()?, clock["realtime_nanos"].as_i64()?);
    let run = header["start"]["clock"]["offset_nanos"].as_i64()?;
    Some(((wall - boot - run) as f64 / 1e9).round() as i64)
}

/// A redacted report has hashes for the names of the target, and is otherwise the same.
fn redacted() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let path = scratch.path().to_str().context("a path")?.to_owned();
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    // The last one is a word of the report as well.
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| name.contains("ebusy-test-"))
        .collect();
    ensure!(!names.is_empty(), "{path} has no name to hide");
    for format in ["text", "json"] {
        for redact in [false, true] {
            let flag = redact.then_some("--redact");
            let who = ebusy::run(command("who")?.args(["--format", format, &path]).args(flag))?;
            who.expect_code(1)?;
            let watch = ebusy::run(
                command("watch")?
                    .args(["--format", format, "--target", &path, "--no-capture"])
                    .args(flag)
                    .args(["--", "umount", &path]),
            )?;
            for output in [who.stdout, watch.stdout] {
                let text = String::from_utf8(output)?;
                ensure!(
                    text.contains("hold-fd") && names.iter().all(|name| text.contains(name) != redact),
                    "{format}, redact {redact}: {text}"
                );
            }
        }
    }
    release(&scratch, [holding])?;
    Ok(Verdict::Passed)
}

fn usage() -> Result<Verdict> {
    let without = ebusy::run(&mut command("record")?)?;
    without.expect_code(2)?;
    ensure!(without.stderr.contains("-o DIR"), "{}", without.stderr);
    let file = tempfile::NamedTempFile::new()?;
    let on_file = ebusy::run(command("record")?.arg("-o").arg(file.path()))?;
    on_file.expect_code(2)?;
    ensure!(
        on_file.stderr.contains("not a folder but a file"),
        "{}",
        on_file.stderr
    );
    let small = ebusy::run(command("record")?.args(["--max-size", "1K", "-o", "/tmp/never"]))?;
    small.expect_code(2)?;
    ensure!(!Path::new("/tmp/never").exists(), "it was made all the same");
    Ok(Verdict::Passed)
}

/// Evidence is kept of a refusal, and of nothing else; its path is the last line.
fn watch_evidence() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let glob = scratch.path();
    let watch = || -> Result<_> {
        Ok(command("watch")?
            .arg("--target")
            .arg(glob)
            .args(["--", "umount"])
            .arg(glob)
            .output()?)
    };
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let output = watch()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = stderr.lines().last().context("it says nothing")?;
    let folder = Path::new(last);
    ensure!(folder.is_absolute() && folder.is_dir(), "{stderr}");
    let capture = Capture::read(folder)?;
    fs::remove_dir_all(folder)?;
    ensure!(
        capture.closed
            && capture.of("umount").any(|umount| umount["ret"] == -16)
            && capture.of("snapshot").count() > 0,
        "{:#?}",
        capture.records
    );
    holding.release()?;
    let output = watch()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && !stderr.contains("/var/tmp/"),
        "{stderr}"
    );
    Ok(Verdict::Passed)
}

/// A capture on the watched mount would keep it busy: ebusy refuses it, and leaves out evidence that nobody asked for.
fn on_what_is_watched() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let folder = scratch.join("capture");
    let on = |verb: &str, place: &str| -> Result<_> {
        let mut command = command(verb)?;
        command
            .arg("--target")
            .arg(scratch.path())
            .arg(place)
            .arg(&folder);
        if verb == "watch" {
            command.args(["--", "true"]);
        }
        ebusy::run(&mut command)
    };
    for (verb, place) in [("record", "-o"), ("watch", "--capture")] {
        let refused = on(verb, place)?;
        refused.expect_code(2)?;
        ensure!(
            refused.stderr.contains("would keep it busy"),
            "{}",
            refused.stderr
        );
    }
    let beside = tempfile::tempdir()?;
    let kept = ebusy::run(
        command("watch")?
            .arg("--target")
            .arg(scratch.path())
            .arg("--capture")
            .arg(beside.path())
            .args(["--", "umount"])
            .arg(scratch.path()),
    )?;
    kept.expect_code(0)?;
    Ok(Verdict::Passed)
}

/// A short form of `cargo xtask soak`.
fn soak() -> Result<Verdict> {
    let report = Soak {
        duration: Duration::ZERO,
        // Each fault once.
        rounds: 5,
        ..Soak::default()
    }
    .run()?;
    println!("{report}");
    soak::check(&report)?;
    Ok(Verdict::Passed)
}
