//! Registers a file with an io_uring and keeps its descriptor as well: one owner, used in two ways.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup, uring::Ring};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    let file = File::open(setup.path())?;
    ring.register(&file)?;
    let mut claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    claim.also = vec!["io_uring".to_owned()];
    setup.hold(vec![claim])
}
