//! A thread with a descriptor table of its own holds a file open.

use std::{
    fs::File,
    os::fd::IntoRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ebusy_tests::{claim::Claim, hold::Setup, process::in_thread};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let path = setup.path().clone();
    let opened = Arc::new(AtomicU32::new(0));
    let fd = Arc::clone(&opened);
    let (tid, _thread) = in_thread(move || {
        // SAFETY: the thread uses no descriptor of the others but standard output, and they none of its own.
        unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
        // The descriptor goes with the thread's table.
        fd.store(File::open(path)?.into_raw_fd() as u32, Ordering::Release);
        Ok(())
    })?;
    let mut claim = Claim::fd(opened.load(Ordering::Acquire), "read")
        .regular()
        .opened_since(setup.began);
    claim.owners[0].tid = Some(tid);
    setup.hold(vec![claim])
}
