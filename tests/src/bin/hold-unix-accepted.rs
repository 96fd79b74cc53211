//! Has accepted a connection, and then closed and unlinked the socket that it listened on. The other end holds nothing.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
};

use ebusy_tests::{hold::Setup, socket::bound};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let listener = UnixListener::bind(setup.path())?;
    let _client = UnixStream::connect(setup.path())?;
    let (accepted, _) = listener.accept()?;
    drop(listener);
    fs::remove_file(setup.path())?;
    let mut claim = bound(&accepted, "accepted")?;
    claim.deleted = true;
    setup.hold(vec![claim])
}
