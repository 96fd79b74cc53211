//! Has a datagram socket whose name it has unlinked.

use std::{fs, os::unix::net::UnixDatagram};

use ebusy_tests::{hold::Setup, socket::bound};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let socket = UnixDatagram::bind(setup.path())?;
    fs::remove_file(setup.path())?;
    let mut claim = bound(&socket, "bound")?;
    claim.deleted = true;
    setup.hold(vec![claim])
}
