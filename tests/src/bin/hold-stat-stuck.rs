//! A child that is stuck in a lookup: the server of the file system does not answer. The paths are where the lookup has
//! come to, and what it looks for.

use ebusy_tests::{claim::Claim, hold::Setup, process::stuck_in_stat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let child = stuck_in_stat(&setup.paths[1])?;
    let mut claim = Claim::new("path_walk");
    claim.owners[0].pid = child.pid();
    setup.hold(vec![claim])
}
