//! Swaps to a file.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use ebusy_tests::{
    claim::Claim,
    hold::Setup,
    swap::{Swap, area},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    if let Some(reason) = Swap::hidden() {
        return setup.skip(reason);
    }
    fs::write(setup.path(), area())?;
    fs::set_permissions(setup.path(), Permissions::from_mode(0o600))?;
    // The kernel asks where the blocks are.
    File::open(setup.path())?.sync_all()?;
    let swap = match Swap::on(setup.path()) {
        Ok(swap) => swap,
        Err(error) => return setup.skip(&format!("swapon: {error}")),
    };
    let held = setup.hold(vec![Claim::new("swap").without_process()]);
    drop(swap);
    held
}
