//! Has its root directory there and its working directory outside.

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    rustix::process::chroot(setup.path())?;
    setup.hold(vec![Claim::new("root")])
}
