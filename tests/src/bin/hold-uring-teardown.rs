//! Registers a file with an io_uring and closes both: a worker of the ring reads from a FUSE, whose server does not
//! answer, and as long as it does the kernel cannot take the ring down.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
};

use ebusy_tests::{claim::Claim, fuse::Connection, hold::Setup, holder::Skip, pause, uring::Ring};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let connection = match Connection::new() {
        Ok(connection) => connection,
        Err(error) => return setup.skip(&error.downcast::<Skip>()?.skip),
    };
    // The server ends first, which lets everybody go on.
    let (root, server) = connection.serve_in_child()?;
    let Some(ring) = Ring::new()? else {
        return setup.skip("no io_uring");
    };
    let stuck = File::open(format!("/proc/self/fd/{}/never-read", root.as_raw_fd()))?;
    ring.register(&File::open(setup.path())?)?;
    ring.read(stuck.as_fd(), Box::leak(Box::new([0; 16])), true)?;
    // Until the server has read the request: what it has not can be withdrawn.
    pause::kernel_works();
    drop(ring);
    pause::kernel_works();
    let claim = Claim::new("deferred")
        .regular()
        .held_by("an io_uring that is taken down");
    let held = setup.hold(vec![claim]);
    drop(server);
    held
}
