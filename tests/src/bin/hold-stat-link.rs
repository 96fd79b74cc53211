//! A child that is stuck in the lookup of a symbolic link: it leads to a FUSE elsewhere, whose server does not answer.

use std::os::{fd::AsRawFd as _, unix::fs::symlink};

use ebusy_tests::{
    claim::Claim,
    fuse::Connection,
    hold::Setup,
    holder::Skip,
    process::{ForkedChild, stuck_in_stat},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let connection = match Connection::new() {
        Ok(connection) => connection,
        Err(error) => return setup.skip(&error.downcast::<Skip>()?.skip),
    };
    // The server ends first, which lets everybody go on.
    let (root, server): (_, ForkedChild) = connection.serve_in_child()?;
    symlink(format!("/proc/self/fd/{}/never", root.as_raw_fd()), setup.path())?;
    let child = stuck_in_stat(setup.path())?;
    let mut claim = Claim::new("path_walk");
    claim.owners[0].pid = child.pid();
    let held = setup.hold(vec![claim]);
    drop(server);
    held
}
