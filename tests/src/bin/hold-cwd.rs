//! Has its working directory there.

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    std::env::set_current_dir(setup.path())?;
    setup.hold(vec![Claim::new("cwd")])
}
