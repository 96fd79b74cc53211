//! Maps three places of one open file, and closes its descriptor: one reference.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, process::Mapping};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    // Every other page, so that the kernel cannot merge them.
    let _mappings = [
        Mapping::of(&file, 4)?,
        Mapping::of(&file, 2)?,
        Mapping::of(&file, 0)?,
    ];
    drop(file);
    setup.hold(vec![Claim::new("mmap")])
}
