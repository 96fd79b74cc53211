//! Mounts a tmpfs over a mount and holds a file of the upper one open: `hold-fd-on-top MOUNT_POINT`.

use std::fs::File;

use ebusy_tests::hold::Setup;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    mount("ebusy-top", setup.path(), "tmpfs", MountFlags::empty(), None)?;
    let file = File::create(setup.path().join("file"))?;
    let held = setup.hold(Vec::new());
    drop(file);
    let _ = unmount(setup.path(), UnmountFlags::empty());
    held
}
