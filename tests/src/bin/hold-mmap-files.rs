//! Maps each of its files, as a program does with its libraries: many alike of one process, one entry with their sum.

use std::fs::File;

use ebusy_tests::{claim::Claim, hold::Setup, process::Mapping};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let mut mappings = Vec::new();
    for path in &setup.paths {
        mappings.push(Mapping::of(&File::open(path)?, 0)?);
    }
    let mut claim = Claim::new("mmap");
    claim.arguments = (0..setup.paths.len()).collect();
    claim.refs = setup.paths.len() as u64;
    claim.overlay_refs = claim.refs;
    setup.hold(vec![claim])
}
