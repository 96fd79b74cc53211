//! Mounts a tmpfs there and keeps a file of it open; it unmounts it in the end.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    mount("ebusy-child", setup.path(), "tmpfs", MountFlags::empty(), None)?;
    let file = File::create(setup.path().join("used"))?;
    let mut claim = Claim::new("child_mount").held_by("ebusy-child");
    claim.owners[0].fd = Some(file.as_raw_fd() as u32);
    let held = setup.hold(vec![claim]);
    drop(file);
    unmount(setup.path(), UnmountFlags::empty())?;
    held
}
