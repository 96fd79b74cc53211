//! Runs, and holds nothing but its own executable. Its argument is the path that it was started by.

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    // Its text is mapped, too, from the same open file.
    let mut claim = Claim::new("exe").regular();
    claim.also = vec!["mmap".to_owned()];
    setup.hold(vec![claim])
}
