//! The init of a pid namespace holds a file open; it is known by the number that the host has for it.

use std::{fs::File, os::fd::IntoRawFd as _};

use ebusy_tests::{
    claim::Claim,
    hold::Setup,
    process::{ForkedChild, Numbers},
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let numbers = Numbers::new()?;
    // SAFETY: no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    let child = ForkedChild::spawn(0, || {
        Ok(numbers.tell(File::open(setup.path())?.into_raw_fd() as u32)?)
    })?;
    let claim = Claim::fd_of(child.pid(), numbers.hear()?, "read")
        .regular()
        .opened_since(setup.began);
    setup.hold(vec![claim])
}
