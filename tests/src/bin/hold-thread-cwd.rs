//! A thread with an `fs_struct` of its own has its working directory there.

use ebusy_tests::{claim::Claim, hold::Setup, process::in_thread};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let path = setup.path().clone();
    let (tid, _thread) = in_thread(move || {
        // SAFETY: no file descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        std::env::set_current_dir(path)
    })?;
    let mut claim = Claim::new("cwd");
    claim.owners[0].tid = Some(tid);
    setup.hold(vec![claim])
}
