//! Unmounts a copy, mounts a tmpfs in its place and holds a file of that open: `hold-fd-unrelated FILE`, where the
//! file is in the root of the copy.

use std::{fs::File, os::fd::AsRawFd as _};

use anyhow::Context as _;
use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn main() -> anyhow::Result<()> {
    let mut setup = Setup::from_args()?;
    let mount_point = setup.path().parent().context("a file is in a directory")?;
    unmount(mount_point, UnmountFlags::empty())?;
    mount("ebusy-unrelated", mount_point, "tmpfs", MountFlags::empty(), None)?;
    let file = File::create(setup.path())?;
    setup.look_again()?;
    let claim = Claim::fd(file.as_raw_fd() as u32, "write");
    setup.hold(vec![claim])
}
