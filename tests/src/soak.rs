//! A recorder under load and faults, round after round: at the end, generated = recorded + counted as lost.

use std::{
    fmt,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
    time::{ClockId, clock_gettime, clock_settime},
};
use tempfile::TempDir;

use crate::{
    capture::{self, Capture},
    containerd::{self, Containerd},
    harness,
    holder::PATIENCE,
    namespace::{self, Namespace},
    pause,
    recording::{Balance, Recording},
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};

/// `soak [MINUTES]`: prints the balance. `cargo xtask soak` runs it.
pub(crate) fn main() -> Result<()> {
    let minutes = std::env::args().nth(1).map_or(Ok(1), |minutes| minutes.parse());
    let minutes: u64 = minutes.context("a number of minutes")?;
    // Before any thread starts.
    namespace::enter_isolated().context("entering a mount namespace (as root)")?;
    let report = Soak {
        duration: Duration::from_secs(minutes * 60),
        rounds: 6,
        containers: true,
    }
    .run()?;
    println!("{report}");
    check(&report)
}

/// Time of a round under load.
const ROUND: Duration = Duration::from_millis(800);
/// Size of the disk that the captures are on.
const DISK: u64 = 24 << 20;
/// Memory that a recorder may take, KiB: the rings, what waits for the disk (16 MiB), and the tables of processes.
const MEMORY_MAX: u64 = 192 << 10;
/// A killed recorder loses less than that of the end, s.
const GONE_MAX: f64 = 1.0;

/// The fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// It is stopped until the ring is full, and continued.
    Stopped,
    /// The disk is full for a while.
    DiskFull,
    /// It gets SIGHUP all the time.
    Hangups,
    /// It is killed while it records.
    Killed,
    /// Containers come and go, and their runtime is restarted while one runs.
    Containers,
    /// The wall clock is set, forward and back: only in a virtual machine.
    ClockStepped,
}

/// Options of a run.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// Duration; the current round is finished.
    pub duration: Duration,
    /// Minimum number of rounds.
    pub rounds: usize,
    /// Use real containers, if they can run here.
    pub containers: bool,
}

/// Result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Balanced rounds with their fault: those whose load was known to the event.
    pub balances: Vec<(String, Balance)>,
    /// Missing time at the end of killed recorders, s.
    pub gone: Vec<f64>,
    /// Refused umounts: made, in the captures, and counted as lost with other umounts.
    pub refused: (u64, u64, u64),
    /// Peak memory of a recorder, KiB.
    pub memory: u64,
    /// Largest capture, bytes.
    pub disk: u64,
    /// Events recorded in all, and their bytes.
    pub size: (u64, u64),
    /// Time under load in the balanced rounds.
    pub loaded: Duration,
    /// Skipped parts.
    pub skipped: Option<String>,
}

impl Default for Soak {
    fn default() -> Self {
        Self {
            duration: Duration::from_mins(1),
            rounds: 1,
            containers: false,
        }
    }
}

impl Soak {
    /// Runs it.
    pub fn run(self) -> Result<Report> {
        let mut report = Report::default();
        let mut faults = vec![
            Fault::Stopped,
            Fault::DiskFull,
            Fault::Killed,
            Fault::Hangups,
            Fault::None,
        ];
        if harness::in_machine() {
            faults.push(Fault::ClockStepped);
        }
        let mut runtime = None;
        if self.containers {
            report.skipped = containerd::missing();
            if report.skipped.is_none() {
                faults.push(Fault::Containers);
            }
        }
        let disk = Disk::new()?;
        let begun = Instant::now();
        for (round, fault) in faults.iter().cycle().enumerate() {
            if begun.elapsed() >= self.duration && round >= self.rounds {
                break;
            }
            Round::new(&disk, &mut report)?
                .run(*fault, &mut runtime)
                .with_context(|| format!("round {} ({fault:?})", round + 1))?;
        }
        Ok(report)
    }
}

/// Every event is accounted for, and every refused umount is in a capture.
pub fn check(report: &Report) -> Result<()> {
    for (fault, balance) in &report.balances {
        balance.check().with_context(|| fault.clone())?;
    }
    let (made, recorded, lost) = report.refused;
    ensure!(
        recorded <= made && made <= recorded + lost,
        "refused umounts: {:?}",
        report.refused
    );
    ensure!(
        !report.balances.is_empty() && report.disk <= DISK && report.memory <= MEMORY_MAX,
        "{report}"
    );
    ensure!(report.gone.iter().all(|gone| *gone < GONE_MAX), "{report}");
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, balance) in &self.balances {
            writeln!(
                f,
                "{fault:<10} {:>9} generated = {:>9} recorded + {:>9} lost in the ring + {:>7} not written",
                balance.generated, balance.recorded, balance.lost_in_ring, balance.not_written
            )?;
        }
        let sum = |of: fn(&Balance) -> u64| self.balances.iter().map(|(_, balance)| of(balance)).sum::<u64>();
        writeln!(
            f,
            "in all     {:>9} generated = {:>9} recorded + {:>9} lost in the ring + {:>7} not written",
            sum(|balance| balance.generated),
            sum(|balance| balance.recorded),
            sum(|balance| balance.lost_in_ring),
            sum(|balance| balance.not_written)
        )?;
        let (made, recorded, lost) = self.refused;
        writeln!(
            f,
            "refused umounts: {made} made, {recorded} recorded; {lost} records of umounts lost"
        )?;
        if !self.gone.is_empty() {
            let worst = self.gone.iter().copied().fold(0.0, f64::max);
            writeln!(
                f,
                "killed {} times: the last {worst:.3} s gone at the worst",
                self.gone.len()
            )?;
        }
        if let Some(skipped) = &self.skipped {
            writeln!(f, "without containers: {skipped}")?;
        }
        write!(
            f,
            "memory {} KiB at the most, disk {} KiB at the most, {:.1} bytes an event, {:.0} events a second",
            self.memory,
            self.disk / 1024,
            self.size.1 as f64 / self.size.0.max(1) as f64,
            sum(|balance| balance.generated) as f64 / self.loaded.as_secs_f64().max(0.001)
        )
    }
}

/// A small disk of its own.
struct Disk(TempDir);

impl Disk {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let size = std::ffi::CString::new(format!("size={DISK}"))?;
        mount(
            "ebusy-disk",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(&*size),
        )?;
        Ok(Self(directory))
    }

    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.path().join("filler");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// A thread that works until it is stopped, and its result.
struct Load {
    done: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// Repeats something; `work` counts the repetitions.
    fn start(mut work: impl FnMut() -> Result<u64> + Send + 'static) -> Self {
        let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (its_done, its_count) = (Arc::clone(&done), Arc::clone(&count));
        let thread = thread::spawn(move || {
            while !its_done.load(Ordering::Acquire) {
                its_count.fetch_add(work()?, Ordering::AcqRel);
            }
            Ok(())
        });
        Self { done, count, thread }
    }

    fn so_far(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn stop(self) -> Result<u64> {
        self.done.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("a load panicked"))??;
        Ok(self.count.load(Ordering::Acquire))
    }
}

/// One run of the recorder.
struct Round<'a> {
    disk: &'a Disk,
    report: &'a mut Report,
    folder: PathBuf,
    scratch: Arc<Scratch>,
}

impl<'a> Round<'a> {
    fn new(disk: &'a Disk, report: &'a mut Report) -> Result<Self> {
        let scratch = Arc::new(Scratch::new(FileSystem::Tmpfs)?);
        let folder = disk.0.path().join("capture");
        Ok(Self {
            disk,
            report,
            folder,
            scratch,
        })
    }

    fn run(mut self, fault: Fault, runtime: &mut Option<Containerd>) -> Result<()> {
        let mut recording = Recording::start(&self.folder, self.scratch.path(), &["--all"])?;
        let holding = hold_fd(&self.scratch, Namespace::Same, "second")?;
        // The holder's own opens are not ours: they are of another process.
        let file = self.scratch.join("file");
        let begun = Instant::now();
        let opens = Load::start(move || {
            for _ in 0..100 {
                File::open(&file)?;
            }
            Ok(100)
        });
        let target = Arc::clone(&self.scratch);
        let bursts = Load::start(move || {
            for _ in 0..10 {
                ensure!(!target.umount()?, "it was not refused");
            }
            pause::takes(Duration::from_millis(200), "the rhythm of the bursts of umounts");
            Ok(10)
        });
        let mounts = Load::start(|| {
            let scratch = Scratch::new(FileSystem::Tmpfs)?;
            Ok(u64::from(scratch.umount()?))
        });
        self.disturb(fault, &mut recording, &opens, runtime)?;
        let refused = bursts.stop()?;
        mounts.stop()?;
        if fault == Fault::Killed {
            self.killed(recording, opens)?;
        } else {
            let opens = opens.stop()?;
            self.report.loaded += begun.elapsed();
            self.ended(fault, recording, opens, refused)?;
        }
        holding.release()?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    fn disturb(
        &self,
        fault: Fault,
        recording: &mut Recording,
        opens: &Load,
        runtime: &mut Option<Containerd>,
    ) -> Result<()> {
        match fault {
            Fault::None | Fault::Killed => under_load(ROUND),
            Fault::Stopped => {
                recording.running.signal(Signal::STOP)?;
                let before = opens.so_far();
                wait_until("opens", || Ok(opens.so_far() - before > 60_000))?;
                recording.running.signal(Signal::CONT)?;
                under_load(ROUND);
            }
            Fault::DiskFull => {
                let filler = self.disk.fill()?;
                wait_until("a full disk", || {
                    Ok(recording.running.log().contains("NOT RECORDING"))
                })?;
                under_load(ROUND);
                fs::remove_file(filler)?;
                wait_until("room again", || {
                    Ok(recording.running.log().contains("recording again"))
                })?;
            }
            Fault::Hangups => {
                for _ in 0..10 {
                    recording.running.signal(Signal::HUP)?;
                    under_load(ROUND / 10);
                }
            }
            Fault::Containers => {
                let containerd = match runtime {
                    Some(runtime) => runtime,
                    None => runtime.insert(Containerd::start()?),
                };
                for number in 0..3 {
                    let container = containerd.run(&format!("soak-{number}"), &[])?;
                    if number == 1 {
                        containerd.restart()?;
                    }
                    containerd.kill(&container)?;
                    containerd.ctr(&["containers", "delete", &container.id])?;
                }
            }
            Fault::ClockStepped => {
                for hours in [1, -2, 1] {
                    let mut now = clock_gettime(ClockId::Realtime);
                    now.tv_sec += hours * 3600;
                    clock_settime(ClockId::Realtime, now)?;
                    under_load(ROUND);
                }
            }
        }
        Ok(())
    }

    /// The load continues while it is killed: the loss is measured in time.
    fn killed(&mut self, recording: Recording, opens: Load) -> Result<()> {
        let killed = now();
        recording.kill()?;
        opens.stop()?;
        let capture = Capture::read(&self.folder)?;
        let last = capture.opened.iter().map(|opened| opened.time).max();
        let last = last.context("nothing was recorded")? as f64 / 1e9;
        self.report.gone.push((killed - last).max(0.0));
        self.note_size(&capture)
    }

    /// The balance is complete: generated, recorded and counted as lost.
    fn ended(&mut self, fault: Fault, recording: Recording, opens: u64, refused: u64) -> Result<()> {
        // At its end it writes as much as the disk has room for.
        recording.running.catch_up()?;
        self.report.memory = self.report.memory.max(recording.running.most_memory()?);
        recording.finish()?.expect_code(0)?;
        let capture = Capture::read(&self.folder)?;
        ensure!(capture.closed, "it was not closed");
        let balance = Balance::of(&capture, std::process::id(), opens);
        // Opens of containers are lost beside ours, but not counted here: then the balance is not exact to the event.
        if fault != Fault::Containers || balance.lost_in_ring == 0 {
            self.report.balances.push((format!("{fault:?}"), balance));
        }
        let recorded = capture
            .of("umount")
            .filter(|umount| umount["ret"] == -16 && umount["caller"]["pid"] == std::process::id());
        self.report.refused.0 += refused;
        self.report.refused.1 += recorded.count() as u64;
        self.report.refused.2 += capture.lost("umount:") + capture.lost("capture: umount");
        self.note_size(&capture)
    }

    fn note_size(&mut self, capture: &Capture) -> Result<()> {
        self.report.disk = self.report.disk.max(capture::size(&self.folder)?);
        self.report.size.0 += capture.count();
        self.report.size.1 += capture.bytes;
        Ok(())
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    pause::until(PATIENCE, || Ok(done()?.then_some(()))).with_context(|| format!("waiting for {what}"))
}

fn under_load(time: Duration) {
    pause::takes(time, "the load lasts that long");
}

/// The boot clock, s.
fn now() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
