//! Has its root directory and its working directory there, as a process of a container has.

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    rustix::process::chroot(setup.path())?;
    std::env::set_current_dir("/")?;
    setup.hold(vec![Claim::new("root"), Claim::new("cwd")])
}
