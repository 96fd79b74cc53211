//! UNIX sockets that are bound to a path, and files that are in flight between sockets.

use std::{
    fs::{self, File},
    os::{
        fd::AsFd as _,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
};

use anyhow::{Context as _, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{
    claim::Claim,
    harness::in_machine,
    hold::Setup,
    socket::{bound, in_flight, name, send, unaccepted},
};

/// Listens on a socket.
pub(super) fn listener(setup: &Setup) -> Result<()> {
    let listener = UnixListener::bind(setup.path())?;
    setup.hold([bound(&listener, "listening")?])
}

/// Listens on a socket, in a network namespace of its own.
pub(super) fn netns(setup: &Setup) -> Result<()> {
    // SAFETY: it is the only thread, and has no socket yet.
    if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
        return setup.skip(&format!("no new network namespace: {error}"));
    }
    listener(setup)
}

/// Listens on a socket with a connection that it has not accepted.
pub(super) fn embryo(setup: &Setup) -> Result<()> {
    let listener = UnixListener::bind(setup.path())?;
    let _client = UnixStream::connect(setup.path())?;
    setup.hold([
        bound(&listener, "listening")?,
        bound(&listener, "not accepted yet")?,
    ])
}

/// Has accepted a connection, and then closed and unlinked the socket that it listened on. The other end holds nothing.
pub(super) fn accepted(setup: &Setup) -> Result<()> {
    let listener = UnixListener::bind(setup.path())?;
    let _client = UnixStream::connect(setup.path())?;
    let (accepted, _) = listener.accept()?;
    drop(listener);
    fs::remove_file(setup.path())?;
    let mut claim = bound(&accepted, "accepted")?;
    claim.deleted = true;
    setup.hold([claim])
}

/// Has a datagram socket whose name it has unlinked.
pub(super) fn datagram_unlinked(setup: &Setup) -> Result<()> {
    let socket = UnixDatagram::bind(setup.path())?;
    fs::remove_file(setup.path())?;
    let mut claim = bound(&socket, "bound")?;
    claim.deleted = true;
    setup.hold([claim])
}

/// Has sent a file to itself, closed it, and not received it.
pub(super) fn sent(setup: &Setup) -> Result<()> {
    let (from, to) = UnixStream::pair()?;
    send(&from, &[File::open(setup.path())?.as_fd()])?;
    setup.hold([in_flight(&to, &name(&to)?).opened_since(setup.began)])
}

/// Has sent a file to a socket that is in flight itself, and another one over a connection that is not accepted.
pub(super) fn sent_nested(setup: &Setup) -> Result<()> {
    let (from, inner) = UnixStream::pair()?;
    send(&from, &[File::open(setup.path())?.as_fd()])?;
    let (carrier, outer) = UnixStream::pair()?;
    send(&carrier, &[inner.as_fd()])?;
    let nested = in_flight(&outer, &name(&inner)?).opened_since(setup.began);
    drop(inner);

    let (listener, client) = unaccepted()?;
    let second = setup.paths.get(1).context("two paths are needed")?;
    send(&client, &[File::open(second)?.as_fd()])?;
    let mut waiting = in_flight(&listener, "a UNIX socket").opened_since(setup.began);
    waiting.arguments = vec![1];
    setup.hold([nested, waiting])
}

/// Has sent a file and both ends of a pair of sockets over that pair, and closed them all: nobody can receive them. It
/// releases them by closing another socket, which makes the kernel look for such cycles.
pub(super) fn cycle(setup: &Setup) -> Result<()> {
    if !in_machine() {
        return setup.skip("whoever closes a UNIX socket ends it: only in a machine of its own");
    }
    let _others = UnixStream::pair()?;
    let (from, to) = UnixStream::pair()?;
    let file = File::open(setup.path())?;
    send(&from, &[file.as_fd(), from.as_fd(), to.as_fd()])?;
    drop((file, from, to));
    let mut claim = Claim::new("deferred")
        .held_by("garbage of UNIX sockets")
        .regular()
        .without_process()
        .opened_since(setup.began);
    claim.opened_by = Some(std::process::id());
    setup.hold([claim])
}
