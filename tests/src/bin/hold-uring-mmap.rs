//! Registers a file with an io_uring, and closes both: the ring is only mapped.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, uring::Ring};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    ring.register(&File::open(setup.path())?)?;
    ring.into_mapping()?;
    let claim = Claim::new("io_uring").regular().opened_since(setup.began);
    setup.hold(vec![claim])
}
