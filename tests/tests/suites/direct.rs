//! Direct I/O under way, to a file whose descriptor is closed: only the block device knows the request. ebusy counts
//! it, and blames nobody; where the ledger is, it knows the file and its opener. A polled ring knows its requests, so
//! its owner is named.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    aio::Context,
    ebusy::Watch,
    harness::{self, Verdict},
    holder::PATIENCE,
    pause,
    report::Holder,
    scratch::{FileSystem, Scratch},
    slow_disk::SlowDisk,
    steps::PAUSE,
    uring::Ring,
};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("direct_aio", || under_way(aio)),
        harness::test("direct_uring", || under_way(uring)),
        harness::test("direct_polled", polled),
    ])
}

/// Size and offset of a block: multiples of every device's block size.
const BLOCK: usize = 4096;
/// How long the device takes for it.
const BLOCK_TIME: Duration = Duration::from_secs(6);

/// The umount succeeded.
fn umount(path: &Path) -> Result<bool> {
    match unmount(path, UnmountFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(error) => Err(error).context("umount2"),
    }
}

/// Memory where direct I/O may begin, for good.
fn block() -> Result<&'static [u8]> {
    let memory: &'static [u8] = vec![b'y'; 2 * BLOCK].leak();
    let start = memory.as_ptr().align_offset(BLOCK);
    memory.get(start..start + BLOCK).context("a block")
}

/// The owner of a request.
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

/// Begins to write by an io_uring.
fn uring(file: &File) -> Result<Option<Kept>> {
    let Some(ring) = Ring::new()? else {
        return Ok(None);
    };
    ensure!(!ring.write(file.as_fd(), block()?)?, "it was done at once");
    Ok(Some(Box::new(ring)))
}

/// Tries until it is unmounted.
fn until(umount: impl Fn() -> Result<bool>, otherwise: &'static str) -> Result<()> {
    pause::until(PATIENCE, || {
        if umount()? {
            return Ok(Some(()));
        }
        pause::takes(10 * PAUSE, "what a patient caller waits before it tries again");
        Ok(None)
    })
    .context(otherwise)
}

/// Makes a file that has its place when it is written over.
fn place(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[b'x'; BLOCK])?;
    Ok(file.sync_all()?)
}

/// Opens it for direct I/O.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT).open(path)
}

fn under_way(begin: fn(&File) -> Result<Option<Kept>>) -> Result<Verdict> {
    let target = SlowDisk::new()?;
    let path = target.path.join("file");
    place(&path)?;
    let watch = Watch::targets(&[&target.path])?;
    let file = open(&path)?;
    target.disk.take(BLOCK_TIME);
    let began = Instant::now();
    let Some(kept) = begin(&file)? else {
        return Ok(Verdict::Skipped(
            "this kernel has none, or does not allow it".to_owned(),
        ));
    };
    drop(file);
    // By then the worker has handed the request to the device.
    pause::kernel_works();
    ensure!(!umount(&target.path)?, "the umount was not refused");
    harness::settle()?;
    target.disk.take(Duration::ZERO);
    ensure!(
        began.elapsed() < BLOCK_TIME,
        "it took too long to look: {:?}",
        began.elapsed()
    );
    until(|| umount(&target.path), "busy after the device was done")?;
    drop(kept);
    let incident = watch.finish_with_one()?;
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

/// The device is done, and nobody has reaped it.
fn polled() -> Result<Verdict> {
    let target = Scratch::new(FileSystem::Ext2)?;
    let path = target.join("direct");
    place(&path)?;
    let watch = Watch::targets(&[target.path()])?;
    let Some(ring) = Ring::polled()? else {
        return Ok(Verdict::Skipped(
            "this kernel has none, or does not allow it".to_owned(),
        ));
    };
    let file = open(&path)?;
    match ring.write(file.as_fd(), block()?) {
        Ok(done) => ensure!(!done, "it was reaped at once"),
        Err(error) => return Err(error).context("write"),
    }
    drop(file);
    harness::settle()?;
    ensure!(!target.umount()?, "the umount was not refused");
    harness::settle()?;
    let fd = ring.fd();
    // References that the end of the ring keeps for a moment do not matter here.
    let incident = watch.finish_with_one()?;
    drop(ring);
    until(|| target.umount(), "busy after the ring was closed")?;
    let books = &incident.references;
    ensure!(
        books.counted == Some(1) && books.unexplained == Some(0) && books.overexplained == 0,
        "{incident:#?}"
    );
    let named = |holder: &Holder| {
        let process = holder.process.as_ref().map(|process| process.pid);
        holder.kind == "io_uring"
            && process == Some(std::process::id())
            && holder.path == "/direct"
            && holder.fd == Some(fd)
            && holder.held_by.as_deref() == Some("a request under way")
    };
    let holders = &incident.holders;
    ensure!(holders.len() == 1 && holders.iter().all(named), "{incident:#?}");
    Ok(Verdict::Passed)
}
