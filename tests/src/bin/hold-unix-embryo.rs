//! Listens on a socket that somebody has connected to, and has not accepted the connection.

use std::os::unix::net::{UnixListener, UnixStream};

use ebusy_tests::{hold::Setup, socket::bound};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let listener = UnixListener::bind(setup.path())?;
    let _client = UnixStream::connect(setup.path())?;
    setup.hold(vec![
        bound(&listener, "listening")?,
        bound(&listener, "not accepted yet")?,
    ])
}
