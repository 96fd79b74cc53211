//! Reads from a file through an io_uring, and closes it: the request keeps it, and waits for the only worker there may be,
//! which waits for somebody who writes into a FIFO.
//!
//! Newer kernels do not read at once from files that are not known to be read without waiting (no `FMODE_NOWAIT`: tmpfs,
//! overlayfs), but leave it to a worker. Older ones read at once, and have to be told (`IOSQE_ASYNC`); a request of that
//! kind has no file before a worker looks for it, on newer kernels.

use std::{
    ffi::CString,
    fs::{self, File},
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
};

use anyhow::ensure;
use ebusy_tests::{claim::Claim, hold::Setup, pause, uring::Ring};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    if !ring.allow_one_worker()? {
        return setup.skip("the number of workers of an io_uring has no limit here");
    }
    let directory = tempfile::tempdir()?;
    let fifo = directory.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
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
    let mut claim = Claim::new("io_uring").regular().held_by("a request under way");
    claim.owners[0].fd = Some(ring.fd());
    setup.hold(vec![claim])
}
