//! Maps a file and closes its descriptor.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, process::Mapping};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    let _mapping = Mapping::of(&file, 0)?;
    drop(file);
    setup.hold(vec![Claim::new("mmap")])
}
