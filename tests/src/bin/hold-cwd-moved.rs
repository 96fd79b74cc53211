//! Goes to a directory and into a private namespace afterwards: its working directory moves to the copy.

use ebusy_tests::{claim::Claim, hold::Setup, namespace::Namespace};

fn main() -> anyhow::Result<()> {
    let mut setup = Setup::from_args()?;
    rustix::process::chdir(setup.path())?;
    setup.move_to(Namespace::Private)?;
    setup.look_again()?;
    setup.hold(vec![Claim::new("cwd")])
}
