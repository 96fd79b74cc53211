//! Listens on a socket, in a network namespace of its own.

use std::os::unix::net::UnixListener;

use ebusy_tests::{hold::Setup, socket::bound};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    // SAFETY: it is the only thread, and has no socket yet.
    if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
        return setup.skip(&format!("no new network namespace: {error}"));
    }
    let listener = UnixListener::bind(setup.path())?;
    setup.hold(vec![bound(&listener, "listening")?])
}
