//! A process that stands still under a debugger holds a file open.

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
        // SAFETY: these take no pointers that are used.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        Ok(())
    })?;
    let fd = numbers.hear()?;
    child.wait_until_stopped()?;
    let claim = Claim::fd_of(child.pid(), fd, "read")
        .regular()
        .opened_since(setup.began);
    setup.hold(vec![claim])
}
