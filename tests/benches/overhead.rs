//! Measures the cost of ebusy, and how fast it answers: ratios of interleaved rounds in one run. `cargo xtask bench`,
//! or `cargo bench -p ebusy-tests` as root with `EBUSY_BIN` set to a release build.
//!
//! It asserts nothing, because the result depends on the machine. Set `EBUSY_BENCH_PROCESSES` and `EBUSY_BENCH_FILES`
//! for another crowd.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{capture::Capture, pause};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::Value;

const ROUNDS: usize = 7;

fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: overhead: needs root");
        return Ok(());
    }
    if std::env::args().any(|argument| argument == "--crowd-member") {
        return crowd_member();
    }
    overhead()?;
    crowd()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// ebusy watching, until it is dropped.
struct Watch(Child);

impl Watch {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = ebusy_tests::ebusy::command("watch")?
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ebusy")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("watching")));
        ensure!(ready.is_some(), "ebusy ended before it was ready");
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self(child))
    }

    /// Resident memory, KiB.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

fn time(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Timed system calls: label, and number of calls in a round.
struct Measured {
    name: &'static str,
    calls: u32,
    call: fn(&Bench),
}

/// One without a program of ebusy, then those with one. Each of these succeeds, as almost all calls do.
const MEASURED: [Measured; 6] = [
    Measured {
        name: "getppid",
        calls: 200_000,
        call: |_| {
            // SAFETY: getppid has no preconditions; by number, so that nothing caches it.
            let _ = unsafe { libc::syscall(libc::SYS_getppid) };
        },
    },
    Measured {
        name: "open and close of an unwatched file",
        calls: 50_000,
        call: |_| drop(File::open("/etc/hostname")),
    },
    Measured {
        name: "ioctl that is not ours",
        calls: 200_000,
        call: |bench| {
            let _ = rustix::io::ioctl_fionread(&bench.pipe);
        },
    },
    Measured {
        name: "creat and unlink",
        calls: 20_000,
        call: |bench| {
            drop(File::create(&bench.names[0]));
            drop(fs::remove_file(&bench.names[0]));
        },
    },
    Measured {
        name: "rename there and back",
        calls: 20_000,
        call: |bench| {
            drop(fs::rename(&bench.names[1], &bench.names[2]));
            drop(fs::rename(&bench.names[2], &bench.names[1]));
        },
    },
    Measured {
        name: "mkdir and rmdir",
        calls: 20_000,
        call: |bench| {
            drop(fs::create_dir(&bench.names[3]));
            drop(fs::remove_dir(&bench.names[3]));
        },
    },
];

/// The objects of the system calls.
struct Bench {
    _directory: tempfile::TempDir,
    names: [PathBuf; 4],
    pipe: OwnedFd,
    _write: OwnedFd,
}

impl Bench {
    fn new() -> Result<Self> {
        // On a tmpfs, where these calls are fastest.
        let directory = tempfile::tempdir_in("/dev/shm")?;
        let names = ["made", "old", "new", "directory"].map(|name| directory.path().join(name));
        File::create(&names[1])?;
        let (pipe, write) = rustix::pipe::pipe()?;
        Ok(Self {
            _directory: directory,
            names,
            pipe,
            _write: write,
        })
    }

    /// Seconds for one call of each.
    fn round(&self) -> Vec<f64> {
        let each = |measured: &Measured| {
            let seconds = time(|| (0..measured.calls).for_each(|_| (measured.call)(self)));
            seconds / f64::from(measured.calls)
        };
        MEASURED.iter().map(each).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Costs of system calls with and without a watch, in alternating rounds.
fn overhead() -> Result<()> {
    let bench = Bench::new()?;
    for (name, arguments) in [
        ("with history", &[][..]),
        ("without history", &["--no-history"][..]),
    ] {
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let plain = bench.round();
            let watch = Watch::start(arguments)?;
            let watched = bench.round();
            drop(watch);
            rounds.push((plain, watched));
        }
        println!("watch {name}, medians of {ROUNDS} rounds:");
        for (index, measured) in MEASURED.iter().enumerate() {
            let of = |value: fn(f64, f64) -> f64| {
                median(
                    rounds
                        .iter()
                        .map(|(plain, watched)| value(plain[index], watched[index]))
                        .collect(),
                )
            };
            println!(
                "  {}: {:.2} x ({:.0} ns without)",
                measured.name,
                of(|plain, watched| watched / plain),
                of(|plain, _| plain) * 1e9
            );
        }
    }
    Ok(())
}

/// A process of the crowd: opens files, then waits.
fn crowd_member() -> Result<()> {
    let files = number("EBUSY_BENCH_OPEN", 50);
    let open: Vec<File> = (0..files)
        .map(|_| File::open("/dev/null"))
        .collect::<Result<_, _>>()?;
    std::io::stdout().write_all(b"!")?;
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(open);
    Ok(())
}

/// The answer among many processes and files, beside `fuser -m`.
fn crowd() -> Result<()> {
    let processes = number("EBUSY_BENCH_PROCESSES", 2000);
    let files = number("EBUSY_BENCH_FILES", 100_000);
    let each = (files / processes).to_string();
    let own = std::env::current_exe()?;
    let mut crowd = Vec::with_capacity(processes);
    for _ in 0..processes {
        let mut child = Command::new(&own)
            .arg("--crowd-member")
            .env("EBUSY_BENCH_OPEN", &each)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the crowd")?;
        child.stdout.as_mut().context("no stdout")?.read_exact(&mut [0])?;
        crowd.push(child);
    }
    let directory = tempfile::tempdir()?;
    let target = directory.path().join("target");
    fs::create_dir(&target)?;
    mount("bench", &target, "tmpfs", MountFlags::empty(), None)?;
    mount_change(&target, MountPropagationFlags::PRIVATE)?;
    fs::write(target.join("file"), "x")?;
    let result = measure(directory.path(), &target, processes, files);
    unmount(&target, UnmountFlags::DETACH)?;
    for mut child in crowd {
        drop(child.stdin.take());
        child.wait()?;
    }
    result
}

fn measure(directory: &Path, target: &Path, processes: usize, files: usize) -> Result<()> {
    let held = File::open(target.join("file"))?;
    let capture = directory.join("capture");
    let glob = target.to_string_lossy().into_owned();
    let mut fuser = Vec::new();
    let mut who = Vec::new();
    let watch = Watch::start(&["--target", &glob, "--capture", &capture.to_string_lossy()])?;
    let before = watch.resident()?;
    for _ in 0..ROUNDS {
        let _ = unmount(target, UnmountFlags::empty());
        pause::takes(
            Duration::from_millis(1200),
            "what comes more than a second later is a burst of its own",
        );
        fuser.push(time(|| {
            let _ = Command::new("fuser").arg("-m").arg(target).output();
        }));
        who.push(time(|| {
            let _ = ebusy_tests::ebusy::command("who").and_then(|mut who| Ok(who.arg(target).output()?));
        }));
    }
    let after = watch.resident()?;
    drop(watch);
    drop(held);
    let (mut snapshot, mut walk) = (Vec::new(), Vec::new());
    for record in Capture::read(&capture)?.of("snapshot") {
        let nanos = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let (start, end) = (
            nanos(&record["snapshot"]["started"]),
            nanos(&record["snapshot"]["finished"]),
        );
        snapshot.push((end - nanos(&record["attempt"])) / 1e6);
        walk.push((end - start) / 1e6);
    }
    ensure!(!snapshot.is_empty(), "no snapshot was captured");
    let (snapshot, fuser) = (median(snapshot), median(fuser) * 1e3);
    println!(
        "{processes} processes, {files} files: refusal to complete snapshot {snapshot:.1} ms (the walk {:.1} ms), fuser -m \
         {fuser:.0} ms = {:.0} x; ebusy who as a command {:.0} ms; resident {} KiB before, {} KiB after {ROUNDS} refusals",
        median(walk),
        fuser / snapshot,
        median(who) * 1e3,
        before,
        after
    );
    Ok(())
}
