//! Reads from an empty FIFO through an io_uring, and closes it: the request keeps it until something comes.

use std::{fs::File, os::fd::AsFd as _};

use ebusy_tests::{claim::Claim, hold::Setup, uring::Ring};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    mknodat(CWD, setup.path(), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    // With an end to write, which the file is itself, there is no end to what can be read.
    let file = File::options().read(true).write(true).open(setup.path())?;
    ring.read(file.as_fd(), Box::leak(Box::new([0; 16])), false)?;
    drop(file);
    let mut claim = Claim::new("io_uring").held_by("a request under way");
    claim.owners[0].fd = Some(ring.fd());
    setup.hold(vec![claim])
}
