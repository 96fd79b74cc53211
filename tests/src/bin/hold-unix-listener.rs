//! Listens on a socket.

use std::os::unix::net::UnixListener;

use ebusy_tests::{hold::Setup, socket::bound};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let listener = UnixListener::bind(setup.path())?;
    setup.hold(vec![bound(&listener, "listening")?])
}
