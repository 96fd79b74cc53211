//! Direct I/O under way, of a file whose descriptor is closed: the request is known to the block device alone. It is
//! counted, and nobody is accused; where the ledger is, the file and who opened it are known.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    aio::Context,
    ebusy::Watch,
    harness::{self, Verdict},
    holder::PATIENCE,
    slow_disk::SlowDisk,
    steps::PAUSE,
    uring::Ring,
};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
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

/// Whether it could be unmounted.
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
    let target = SlowDisk::new()?;
    let path = target.path.join("file");
    let mut file = File::create(&path)?;
    file.write_all(&[b'x'; BLOCK])?;
    // What is written over later has its place.
    file.sync_all()?;
    drop(file);
    let watch = Watch::targets(&[&target.path])?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)?;
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
    ensure!(!umount(&target.path)?, "the umount was not refused");
    harness::settle();
    target.disk.take(Duration::ZERO);
    ensure!(
        began.elapsed() < BLOCK_TIME,
        "it took too long to look: {:?}",
        began.elapsed()
    );
    let deadline = Instant::now() + PATIENCE;
    while !umount(&target.path)? {
        ensure!(Instant::now() < deadline, "busy after the device was done");
        thread::sleep(10 * PAUSE);
    }
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
