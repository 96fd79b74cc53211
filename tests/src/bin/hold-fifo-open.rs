//! A child that is blocked in the open of a FIFO: its lookup, and a file that has no descriptor yet.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, process::ForkedChild};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let path = setup.path().clone();
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let child = ForkedChild::blocked_in(libc::SYS_openat, || drop(File::open(path)))?;
    let mut claim = Claim::new("path_walk").held_by("an open that waits");
    claim.owners[0].pid = child.pid();
    // A FIFO has no backing file.
    (claim.refs, claim.overlay_refs) = (2, 2);
    setup.hold(vec![claim])
}
