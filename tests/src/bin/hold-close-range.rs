//! A child that has closed a file in a system call that is not done: what is closed goes when that returns. The same
//! call closes a file of a FUSE, whose server does not answer.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, fuse::Connection, hold::Setup, holder::Skip, process::ForkedChild};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let connection = match Connection::new() {
        Ok(connection) => connection,
        Err(error) => return setup.skip(&error.downcast::<Skip>()?.skip),
    };
    // The server ends first, which lets everybody go on.
    let (root, server) = connection.serve_in_child()?;
    let stuck = format!("/proc/self/fd/{}/never-flushed", root.as_raw_fd());
    let path = setup.path().clone();
    let child = ForkedChild::blocked_in(libc::SYS_close_range, || {
        let (Ok(file), Ok(stuck)) = (File::open(path), File::open(stuck)) else {
            return;
        };
        let (first, last) = (file.as_raw_fd(), stuck.as_raw_fd());
        std::mem::forget((file, stuck));
        // SAFETY: this takes no pointers, and nobody uses the descriptors any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    })?;
    let mut claim = Claim::new("deferred")
        .regular()
        .held_by("a system call that is not done");
    claim.owners[0].pid = child.pid();
    let held = setup.hold(vec![claim]);
    drop(server);
    held
}
