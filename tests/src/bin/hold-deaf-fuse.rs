//! Mounts a FUSE whose server answers nothing, and has a child stuck in it: whoever walks onto it is stuck as well.

use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use ebusy_tests::{claim::Claim, fuse::Connection, hold::Setup, holder::Skip, process::stuck_in_stat};
use rustix::{
    fs::{AtFlags, CWD, statat},
    mount::{MoveMountFlags, move_mount},
    process::{Pid, Signal, kill_process},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let connection = match Connection::new() {
        Ok(connection) => connection,
        Err(error) => return setup.skip(&error.downcast::<Skip>()?.skip),
    };
    let (root, server) = connection.serve_in_child()?;
    // It answers, so it has got as far as to end with us: one that is stopped before would stay for good.
    statat(&root, "file", AtFlags::empty()).context("the server does not answer")?;
    let pid = Pid::from_raw(server.pid().cast_signed());
    kill_process(pid.expect("a process id is positive"), Signal::STOP)?;
    move_mount(
        &root,
        "",
        CWD,
        setup.path(),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    // The server has a copy.
    let fd = root.as_raw_fd().cast_unsigned();
    drop(root);
    let child = stuck_in_stat(&setup.path().join("never"))?;
    let mut claim = Claim::new("path_walk");
    claim.owners[0].pid = child.pid();
    let held = setup.hold(vec![Claim::fd_of(server.pid(), fd, "path"), claim]);
    // The connection goes with its server, which lets the child go on.
    drop(server);
    held
}
