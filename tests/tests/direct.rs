//! Direct I/O under way, of a file whose descriptor is closed: the request is known to the block device alone. It is
//! counted, and nobody is accused; where the ledger is, the file and who opened it are known.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    aio::Context,
    ebusy::Watch,
    ext2,
    fuse::Disk,
    guard,
    harness::{self, Verdict},
    holder::{PATIENCE, Skip},
    report::Incident,
    scratch::{FileSystem, Scratch},
    steps::PAUSE,
    uring::Ring,
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

fn main() -> ExitCode {
    harness::main(vec![
        harness::test("direct_aio", || under_way(aio)),
        harness::test("direct_uring", || under_way(uring)),
    ])
}

/// A block, and where it begins: both are multiples of what any device wants.
const BLOCK: usize = 4096;
/// How long the device takes for it.
const BLOCK_TIME: Duration = Duration::from_secs(6);

/// An ext2 on a loop device, whose file is on a FUSE that takes its time.
struct Target {
    path: PathBuf,
    disk: Disk,
    // The path is on it.
    _scratch: Scratch,
}

impl Target {
    fn new() -> Result<Self> {
        let known = fs::read_to_string("/proc/filesystems")?;
        if !known.lines().any(|line| line.trim() == "ext2") || !Path::new("/dev/loop-control").exists() {
            let skip = "this kernel has no ext2, or no loop devices".to_owned();
            return Err(Skip { skip }.into());
        }
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let path = scratch.join("slow");
        fs::create_dir(&path)?;
        let disk = Disk::new(ext2::image())?;
        let (_device, name) = guard::loop_device(&disk.file)?;
        mount(name.as_str(), &path, "ext2", MountFlags::empty(), None).context("mount an ext2")?;
        let target = Self {
            path,
            disk,
            _scratch: scratch,
        };
        let mut file = File::create(target.file())?;
        file.write_all(&[b'x'; BLOCK])?;
        // What is written over later has its place.
        file.sync_all()?;
        Ok(target)
    }

    fn file(&self) -> PathBuf {
        self.path.join("file")
    }

    fn umount(&self) -> Result<bool> {
        match unmount(&self.path, UnmountFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(error) => Err(error).context("umount2"),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.disk.take(Duration::ZERO);
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Memory where direct I/O may begin, for good.
fn block() -> Result<&'static [u8]> {
    let memory: &'static [u8] = vec![b'y'; 2 * BLOCK].leak();
    let start = memory.as_ptr().align_offset(BLOCK);
    memory.get(start..start + BLOCK).context("a block")
}

/// What keeps a request.
type Kept = Box<dyn std::any::Any>;

/// Begins to write by AIO; `None` where there is none.
fn aio(file: &File) -> Result<Option<Kept>> {
    let Some(context) = Context::new()? else {
        return Ok(None);
    };
    context.write(file.as_fd(), block()?)?;
    ensure!(!context.is_done()?, "it was done at once");
    Ok(Some(Box::new(context)))
}

/// The same by an io_uring.
fn uring(file: &File) -> Result<Option<Kept>> {
    let Some(ring) = Ring::new()? else {
        return Ok(None);
    };
    ensure!(!ring.write(file.as_fd(), block()?)?, "it was done at once");
    Ok(Some(Box::new(ring)))
}

fn under_way(begin: fn(&File) -> Result<Option<Kept>>) -> Result<Verdict> {
    let target = Target::new()?;
    let watch = Watch::targets(&[&target.path])?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(target.file())?;
    target.disk.take(BLOCK_TIME);
    let began = Instant::now();
    let Some(kept) = begin(&file)? else {
        return Ok(Verdict::Skipped(
            "this kernel has none, or does not allow it".to_owned(),
        ));
    };
    drop(file);
    // What a worker was given to do it has handed to the device by then.
    harness::settle();
    ensure!(!target.umount()?, "the umount was not refused");
    harness::settle();
    target.disk.take(Duration::ZERO);
    ensure!(
        began.elapsed() < BLOCK_TIME,
        "it took too long to look: {:?}",
        began.elapsed()
    );
    let deadline = Instant::now() + PATIENCE;
    while !target.umount()? {
        ensure!(Instant::now() < deadline, "busy after the device was done");
        thread::sleep(10 * PAUSE);
    }
    drop(kept);
    let [incident] = <[Incident; 1]>::try_from(watch.finish()?.0)
        .map_err(|incidents| anyhow::anyhow!("not one incident: {incidents:#?}"))?;
    let books = &incident.references;
    ensure!(
        books.counted == Some(1) && books.overexplained == 0,
        "{incident:#?}"
    );
    ensure!(incident.candidates.is_empty(), "{incident:#?}");
    match (incident.probe.as_str(), incident.holders.as_slice()) {
        ("tracepoint", []) => ensure!(books.unexplained == Some(1), "{incident:#?}"),
        ("fentry" | "kprobe", [holder]) => ensure!(
            holder.kind == "kernel"
                && holder.process.is_none()
                && holder.path == "/file"
                && holder.opened_by.as_ref().map(|process| process.pid) == Some(std::process::id())
                && books.unexplained == Some(0),
            "{incident:#?}"
        ),
        _ => anyhow::bail!("{incident:#?}"),
    }
    Ok(Verdict::Passed)
}
