//! Maps a file and keeps its descriptor as well: one owner, used in two ways.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup, process::Mapping};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    let mut claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    claim.also = vec!["mmap".to_owned()];
    let _mapping = Mapping::of(&file, 0)?;
    setup.hold(vec![claim])
}
