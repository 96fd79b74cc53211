//! A user without privilege who does anything that may disturb ebusy, at random: `adversary SEED RATE DIRECTORY
//! [CGROUP]`.
//!
//! As uid 65534 in namespaces of its own, some processes mount, unmount, pivot, detach, rename, fork, send descriptors,
//! set up rings, make files and mounts that look like those of runtimes, serve file systems that do not answer, and
//! call umount2 with invalid paths. They make files in `DIRECTORY`, where everybody may write, and cgroups below
//! `CGROUP`.
//!
//! `RATE` is the average number of calls per second that ebusy sees from all of them together: they come in bursts. 0
//! is as many as possible. Everything that a process has at a time is bounded: [`KEPT_MAX`], file systems of [`SIZE`],
//! [`PROCESSES_MAX`].
//!
//! It prints `ready`, or why it cannot run, and ends with its input; then everything that it made disappears with its
//! namespaces, and it prints the number of its actions: `{"mount":[done,failed],..}`; for `calls that fail`, how many
//! failed.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap_anonymous},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{Resource, Rlimit, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    hold::wait_for_end,
    pause,
    process::{ForkedChild, Numbers, adopt_orphans, end_with_parent},
};

mod files;
mod mounts;
mod processes;
mod waits;

/// Its uid outside of its namespaces.
const NOBODY: u32 = 65534;
/// Processes that act.
const WORKERS: u64 = 5;
/// Mounts, files and processes that one process keeps for a while.
const KEPT_MAX: usize = 24;
/// Processes in all.
const PROCESSES_MAX: u64 = 700;
/// Maximum size of a file system.
const SIZE: &std::ffi::CStr = c"size=2m,nr_inodes=4000,mode=755";

/// An action.
type Act = fn(&mut Worker) -> Result<()>;

/// All actions. Those that are listed twice are done more often.
const ACTS: &[(&str, Act)] = &[
    ("mount", mounts::mounted),
    ("mount", mounts::mounted),
    ("unmount", mounts::unmounted),
    ("unmount", mounts::unmounted),
    ("refused", mounts::refused),
    ("detach", mounts::detached),
    ("bind", mounts::bound),
    ("bind-whole", mounts::bound_whole),
    ("propagation", mounts::propagation),
    ("stack", mounts::stacked),
    ("cycle", mounts::cycle),
    ("pivot", mounts::pivoted),
    ("rename", mounts::renamed_over),
    ("loose", mounts::loose),
    ("overlay", mounts::overlay),
    ("no-path", waits::no_path),
    ("user-fault", waits::user_fault),
    ("deaf", waits::deaf),
    ("shaped", files::shaped),
    ("shaped-mount", files::shaped_mount),
    ("names", files::names),
    ("deleted", files::deleted),
    ("mapping", files::mapping),
    ("forks", processes::forks),
    ("named", processes::named),
    ("placed", processes::placed),
    ("namespaces", processes::namespaces),
    ("in-flight", processes::in_flight),
    ("ring", processes::ring),
    ("cgroup", processes::cgroup),
];

/// Counts of each action, done and failed, and of calls that failed as intended: shared by all processes.
#[derive(Clone, Copy)]
struct Counts(&'static [[AtomicU64; 2]; ACTS.len() + 1]);

impl Counts {
    fn new() -> Result<Self> {
        // SAFETY: a mapping where the kernel has room for it, which is never taken away.
        let memory = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                size_of::<[[AtomicU64; 2]; ACTS.len() + 1]>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        // SAFETY: it is as large, of pages, and zero, which an atomic number may be.
        Ok(Self(unsafe { &*memory.cast() }))
    }

    fn by_name(self) -> BTreeMap<&'static str, [u64; 2]> {
        let mut counts = BTreeMap::new();
        let names = ACTS.iter().map(|(name, _)| *name).chain(["calls that fail"]);
        for (name, [done, failed]) in names.zip(self.0) {
            let sums: &mut [u64; 2] = counts.entry(name).or_default();
            sums[0] += done.load(Relaxed);
            sums[1] += failed.load(Relaxed);
        }
        counts
    }
}

pub(super) fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut number = || -> Result<u64> {
        let text = arguments
            .next()
            .context("adversary SEED RATE DIRECTORY [CGROUP]")?;
        Ok(text.to_str().context("a number is text")?.parse()?)
    };
    let (seed, rate) = (number()?, number()?);
    let directory = PathBuf::from(arguments.next().context("a directory is needed")?);
    let cgroup = arguments.next().map(PathBuf::from);
    if let Some(cgroup) = &cgroup {
        // It may move processes within that, not into it.
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    }
    adopt_orphans();
    let counts = Counts::new()?;
    let answer = Numbers::new()?;
    let child = ForkedChild::spawn(0, || {
        if let Err(error) = become_nobody() {
            answer.tell(0)?;
            return Err(error);
        }
        // The first process of its namespace: all others end with it.
        let init = ForkedChild::spawn(0, || {
            for worker in 0..WORKERS {
                let body = || Worker::new(seed, worker, rate, &directory, cgroup.as_ref(), counts)?.work();
                std::mem::forget(ForkedChild::spawn(0, body)?);
            }
            reap()
        })?;
        std::mem::forget(init);
        answer.tell(1)?;
        Ok(())
    })?;
    if answer.hear()? == 0 {
        println!("not everybody may make user namespaces");
        return Ok(());
    }
    println!("ready");
    wait_for_end()?;
    drop(child);
    // The first process of the namespace ends after all others, and is a child of this one by now.
    // SAFETY: nobody asks for the status.
    while unsafe { libc::wait(ptr::null_mut()) } > 0 {}
    println!("{}", serde_json::to_string(&counts.by_name())?);
    Ok(())
}

/// Drops all privilege, and then takes the rights that anybody has in namespaces of their own.
fn become_nobody() -> Result<()> {
    // SAFETY: these take no pointers, but for a list of no groups.
    unsafe {
        ensure!(libc::setgroups(0, ptr::null()) == 0, "setgroups");
        ensure!(libc::setresgid(NOBODY, NOBODY, NOBODY) == 0, "setresgid");
        ensure!(libc::setresuid(NOBODY, NOBODY, NOBODY) == 0, "setresuid");
        // Else /proc/self is not its own.
        ensure!(libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0, "prctl");
    }
    // The change of the user has undone that.
    end_with_parent();
    let most = |number| Rlimit {
        current: Some(number),
        maximum: Some(number),
    };
    setrlimit(Resource::Nproc, most(PROCESSES_MAX))?;
    setrlimit(Resource::Nofile, most(512))?;
    setrlimit(Resource::Core, most(0))?;
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP;
    // SAFETY: no file descriptor table is unshared.
    unsafe { unshare_unsafe(flags) }.context("user namespaces")?;
    fs::write("/proc/self/uid_map", "0 65534 1")?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", "0 65534 1")?;
    Ok(())
}

/// Reaps children forever.
fn reap() -> ! {
    loop {
        // SAFETY: nobody asks for the status.
        if unsafe { libc::wait(ptr::null_mut()) } < 0 {
            pause::takes(Duration::from_millis(10), "there is no child now");
        }
    }
}

/// `SplitMix64`.
struct Noise(u64);

impl Noise {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// A name with sequences that a terminal or shell acts on, or with any bytes.
    fn name(&mut self) -> OsString {
        const NAMES: &[&[u8]] = &[
            b"\x1b[2J\x1b]0;owned\x07",
            b"x: kill -9 1 (",
            b"'; touch adversary-was-here; '",
            b"$(touch adversary-was-here)",
            b"-rf",
            b"a\nBLOCKED  /etc: kill 1\n",
            b"\r\x08\x08",
            b" two  blanks ",
            b"\xe2\x80\xaegpj.exe",
            b"\xff\xfe\x80",
            b"\\x1b\\",
            b"<script>alert(1)</script>",
            b"(deleted)",
            b"a, b and c",
            b"\"quoted\"",
        ];
        let mut bytes = match self.below(3) {
            0 => (0..=self.below(60)).map(|_| self.number() as u8).collect(),
            1 => vec![b'a' + self.below(26) as u8; 1 + self.below(240)],
            _ => NAMES[self.below(NAMES.len())].to_vec(),
        };
        bytes.retain(|byte| !matches!(byte, 0 | b'/'));
        // No two are the same.
        bytes.extend_from_slice(format!("{:x}", self.number() as u16).as_bytes());
        bytes.truncate(250);
        OsString::from_vec(bytes)
    }
}

/// An object that is kept for a while.
#[expect(dead_code, reason = "they are there until they are dropped")]
enum Kept {
    Mount(PathBuf),
    Thing(Box<dyn std::any::Any>),
}

/// One of the processes.
struct Worker {
    noise: Noise,
    /// A file system of its own.
    arena: PathBuf,
    /// A directory that is there outside, too.
    outside: PathBuf,
    cgroup: Option<PathBuf>,
    kept: VecDeque<Kept>,
    /// Between two calls, on average.
    pause: Duration,
    /// Calls that were made since the last pause.
    calls: u32,
    made: u64,
    /// Its current action.
    act: usize,
    counts: Counts,
}

impl Worker {
    fn new(
        seed: u64,
        number: u64,
        rate: u64,
        directory: &Path,
        cgroup: Option<&PathBuf>,
        counts: Counts,
    ) -> Result<Self> {
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let outside = directory.join(format!("worker-{number}"));
        fs::create_dir_all(&outside)?;
        let arena = outside.join("arena");
        fs::create_dir_all(&arena)?;
        mount("adversary", &arena, "tmpfs", MountFlags::empty(), Some(SIZE)).context("a tmpfs")?;
        // Some have exactly the paths of a runtime's mounts.
        if number.is_multiple_of(2) {
            mount("adversary", "/run", "tmpfs", MountFlags::empty(), Some(SIZE)).ok();
        }
        let pause = match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(WORKERS) / u32::try_from(rate)?,
        };
        Ok(Self {
            noise: Noise(seed.wrapping_mul(WORKERS).wrapping_add(number)),
            arena,
            outside,
            cgroup: cgroup.cloned(),
            kept: VecDeque::new(),
            pause,
            calls: 0,
            made: 0,
            act: 0,
            counts,
        })
    }

    /// Never ends.
    fn work(mut self) -> Result<()> {
        loop {
            self.act = self.noise.below(ACTS.len());
            let done = (ACTS[self.act].1)(&mut self);
            self.counts.0[self.act][usize::from(done.is_err())].fetch_add(1, Relaxed);
            while self.kept.len() > KEPT_MAX {
                self.drop_oldest();
            }
            let calls = 1 + std::mem::take(&mut self.calls);
            pause::takes(self.pause * calls, "the rate of all calls");
        }
    }

    fn keep(&mut self, thing: impl std::any::Any) {
        self.kept.push_back(Kept::Thing(Box::new(thing)));
    }

    /// Forks a process that does something, and keeps it for a while.
    fn keep_child(&mut self, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let failed = &self.counts.0[self.act][1];
        let child = ForkedChild::spawn(0, || {
            if body().is_err() {
                failed.fetch_add(1, Relaxed);
            }
            Ok(())
        })?;
        self.keep(child);
        Ok(())
    }

    fn drop_oldest(&mut self) {
        if let Some(Kept::Mount(path)) = self.kept.pop_front() {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }

    /// How often to repeat an action in a row.
    fn times(&mut self, most: usize) -> usize {
        let times = 1 + self.noise.below(most);
        self.calls += times as u32;
        times
    }

    /// Makes a call that fails, some times in a row.
    fn failing(&mut self, most: usize, call: impl Fn() -> Result<(), Errno>) {
        for _ in 0..self.times(most) {
            let failed = call().is_err();
            self.counts.0[ACTS.len()][usize::from(!failed)].fetch_add(1, Relaxed);
        }
    }

    /// A directory that was not there.
    fn directory(&mut self) -> Result<PathBuf> {
        self.made += 1;
        // Older ones are gone by then, or useless.
        let path = self.arena.join(format!("d{}", self.made % 64));
        let _ = unmount(&path, UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&path);
        let path = path.join(self.noise.name());
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A file system on a directory that was not there.
    fn mount(&mut self) -> Result<PathBuf> {
        let path = self.directory()?;
        let source = self.noise.name();
        mount(source, &path, "tmpfs", MountFlags::empty(), Some(SIZE))?;
        Ok(path)
    }
}
