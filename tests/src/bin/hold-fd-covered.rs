//! Holds a file open and mounts a tmpfs on a second path of the mount, which it unmounts in the end:
//! `hold-fd-covered FILE DIRECTORY`.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    let claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    mount("ebusy-child", &setup.paths[1], "tmpfs", MountFlags::empty(), None)?;
    let held = setup.hold(vec![claim]);
    // The mount below may be gone by now, and this one with it.
    let _ = unmount(&setup.paths[1], UnmountFlags::empty());
    held
}
