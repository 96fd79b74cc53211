//! Holds a file open, with a lease on it.

use std::{fs::File, io, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    // SAFETY: it takes no pointers.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
        return setup.skip(&format!("no lease here: {}", io::Error::last_os_error()));
    }
    let claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    setup.hold(vec![claim])
}
