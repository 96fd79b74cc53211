//! Has sent a file and both ends of a pair of sockets over that pair, and closed them all: nobody can receive them. It
//! lets go by closing another socket, which makes the kernel look for such cycles.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use ebusy_tests::{claim::Claim, harness::in_machine, hold::Setup, socket::send};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
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
    setup.hold(vec![claim])
}
