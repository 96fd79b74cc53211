//! Has sent a file to itself, closed it, and not received it.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use ebusy_tests::{
    hold::Setup,
    socket::{in_flight, name, send},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let (from, to) = UnixStream::pair()?;
    send(&from, &[File::open(setup.path())?.as_fd()])?;
    let claim = in_flight(&to, &name(&to)?).opened_since(setup.began);
    setup.hold(vec![claim])
}
