//! A process that was stopped by a signal holds a file open.

use std::{fs::File, os::fd::IntoRawFd as _};

use ebusy_tests::{
    claim::Claim,
    hold::Setup,
    process::{ForkedChild, Numbers},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let numbers = Numbers::new()?;
    let child = ForkedChild::spawn(0, || {
        numbers.tell(File::open(setup.path())?.into_raw_fd() as u32)?;
        // SAFETY: it takes no pointers.
        unsafe { libc::raise(libc::SIGSTOP) };
        Ok(())
    })?;
    let fd = numbers.hear()?;
    child.wait_until_stopped()?;
    let claim = Claim::fd_of(child.pid(), fd, "read")
        .regular()
        .opened_since(setup.began);
    setup.hold(vec![claim])
}
