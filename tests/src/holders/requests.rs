//! Files that an io_uring keeps, or a request of AIO.

use std::{
    ffi::CString,
    fs::{self, File},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};

use crate::{aio, claim::Claim, fuse::Connection, hold::Setup, holder::Skip, pause, uring::Ring};

fn ring() -> Result<Ring> {
    Ok(Ring::new()?.ok_or_else(|| Skip::because("no io_uring"))?)
}

fn aio_context() -> Result<aio::Context> {
    Ok(aio::Context::new()?.ok_or_else(|| Skip::because("no AIO"))?)
}

fn make_fifo(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?)
}

/// Registers a file with an io_uring and closes it.
pub(super) fn registered(setup: &Setup) -> Result<()> {
    let ring = ring()?;
    ring.register(&File::open(setup.path())?)?;
    let mut claim = Claim::new("io_uring")
        .regular()
        .held_by("slot 0")
        .opened_since(setup.began);
    claim.owners[0].fd = Some(ring.fd());
    setup.hold([claim])
}

/// Registers a file with an io_uring and keeps its descriptor as well: one owner, used in two ways.
pub(super) fn registered_too(setup: &Setup) -> Result<()> {
    let ring = ring()?;
    let file = File::open(setup.path())?;
    ring.register(&file)?;
    let mut claim = setup.opened(&file, "read").regular();
    claim.also = vec!["io_uring".to_owned()];
    setup.hold([claim])
}

/// Registers a file with an io_uring, and closes both: the ring is only mapped.
pub(super) fn ring_mapped(setup: &Setup) -> Result<()> {
    let ring = ring()?;
    ring.register(&File::open(setup.path())?)?;
    ring.into_mapping()?;
    setup.hold([Claim::new("io_uring").regular().opened_since(setup.began)])
}

/// Reads from an empty FIFO through an io_uring, and closes it: the request keeps it until something comes.
pub(super) fn request(setup: &Setup) -> Result<()> {
    let ring = ring()?;
    make_fifo(setup.path())?;
    // The file is its own writer, so a read never reaches the end.
    let file = File::options().read(true).write(true).open(setup.path())?;
    ring.read(file.as_fd(), Box::leak(Box::new([0; 16])), false)?;
    drop(file);
    setup.hold([under_way(&ring)])
}

/// A request of the ring has the file.
fn under_way(ring: &Ring) -> Claim {
    let mut claim = Claim::new("io_uring").held_by("a request under way");
    claim.owners[0].fd = Some(ring.fd());
    claim
}

/// Reads from a file through an io_uring, and closes it: the request keeps it, and waits for the only allowed worker,
/// which waits for a writer of a FIFO.
///
/// Newer kernels leave reads to a worker if the file may have to wait (no `FMODE_NOWAIT`: tmpfs, overlayfs). Older ones
/// read at once unless `IOSQE_ASYNC` is set; on newer kernels such a request has no file until a worker looks it up.
pub(super) fn queued(setup: &Setup) -> Result<()> {
    let ring = ring()?;
    if !ring.allow_one_worker()? {
        return setup.skip("the number of workers of an io_uring has no limit here");
    }
    let directory = tempfile::tempdir()?;
    let fifo = directory.path().join("fifo");
    make_fifo(&fifo)?;
    let path: &'static CString = Box::leak(Box::new(CString::new(fifo.as_os_str().as_bytes())?));
    ring.open_by_worker(path)?;
    // Until the worker has taken it.
    pause::kernel_works();
    let file = File::open(setup.path())?;
    let read = |by_worker| ring.read(file.as_fd(), Box::leak(Box::new([0; 16])), by_worker);
    let is_done = read(false)? && read(true)?;
    ensure!(!is_done, "nothing waits");
    drop(file);
    fs::remove_file(&fifo)?;
    setup.hold([under_way(&ring).regular()])
}

/// Registers a file with an io_uring and closes both: a worker of the ring reads from a FUSE, whose server does not
/// answer, and as long as it does the kernel cannot take the ring down.
pub(super) fn teardown(setup: &Setup) -> Result<()> {
    // The server ends first, which releases all waiting processes.
    let (root, server) = Connection::new()?.serve_in_child()?;
    let ring = ring()?;
    let stuck = File::open(format!("/proc/self/fd/{}/never-read", root.as_raw_fd()))?;
    ring.register(&File::open(setup.path())?)?;
    ring.read(stuck.as_fd(), Box::leak(Box::new([0; 16])), true)?;
    // Until the server has read the request: an unread one can be withdrawn.
    pause::kernel_works();
    drop(ring);
    pause::kernel_works();
    let claim = Claim::new("deferred")
        .regular()
        .held_by("an io_uring that is taken down");
    let held = setup.hold([claim]);
    drop(server);
    held
}

/// Waits by AIO until an empty FIFO can be read, and closes it: the request keeps it until something comes.
pub(super) fn aio_poll(setup: &Setup) -> Result<()> {
    let context = aio_context()?;
    make_fifo(setup.path())?;
    // Before the first writer there is no end of file. A file open to read and write has two wait queues, which AIO
    // refuses.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, setup.path(), flags, Mode::empty())?;
    context.poll(file.as_fd())?;
    drop(file);
    ensure!(!context.is_done()?, "nothing waits");
    setup.hold([Claim::new("kernel").held_by("an AIO request under way")])
}

/// Syncs a directory by AIO, and closes it: `hold-aio-sync DIRECTORY RELEASE`. A worker of the kernel does it, and
/// waits for a server that answers only once somebody looks up the other name. (A file of FUSE could not be closed
/// meanwhile: its lock is that of the sync.)
pub(super) fn aio_sync(setup: &Setup) -> Result<()> {
    let context = aio_context()?;
    let file = File::open(setup.path())?;
    context.sync(file.as_fd())?;
    drop(file);
    // Until a worker has taken it.
    pause::kernel_works();
    ensure!(!context.is_done()?, "nothing waits");
    let held = setup.hold([Claim::new("kernel").held_by("an AIO request under way")]);
    // The end of the process would wait for it.
    let _ = setup.paths[1].metadata();
    held
}
