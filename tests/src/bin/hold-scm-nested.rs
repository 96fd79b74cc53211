//! Has sent a file to a socket that is in flight itself, and another one over a connection that is not accepted.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use anyhow::Context as _;
use ebusy_tests::{
    hold::Setup,
    socket::{in_flight, name, send, unaccepted},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
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
    setup.hold(vec![nested, waiting])
}
