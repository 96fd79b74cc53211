//! Mounts a tmpfs there, and unmounts it in the end.

use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    mount("ebusy-child", setup.path(), "tmpfs", MountFlags::empty(), None)?;
    let mut claim = Claim::new("child_mount");
    claim.owners.clear();
    let held = setup.hold(vec![claim]);
    unmount(setup.path(), UnmountFlags::empty())?;
    held
}
