//! Registers a file with an io_uring and closes it.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, uring::Ring};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    ring.register(&File::open(setup.path())?)?;
    let mut claim = Claim::new("io_uring")
        .regular()
        .held_by("slot 0")
        .opened_since(setup.began);
    claim.owners[0].fd = Some(ring.fd());
    setup.hold(vec![claim])
}
