//! Swaps to a block device, by a node of its own on the mount.

use std::{fs::File, io::Write as _, os::unix::fs::MetadataExt as _, path::Path};

use ebusy_tests::{
    claim::Claim,
    guard::loop_device,
    hold::Setup,
    swap::{Swap, area},
};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, memfd_create, mknodat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    if let Some(reason) = Swap::hidden() {
        return setup.skip(reason);
    }
    if !Path::new("/dev/loop-control").exists() {
        return setup.skip("this kernel has no loop devices");
    }
    let mut memory = File::from(memfd_create("swap", MemfdFlags::CLOEXEC)?);
    memory.write_all(&area())?;
    let (device, _) = loop_device(&memory)?;
    let number = device.metadata()?.rdev();
    mknodat(
        CWD,
        setup.path(),
        FileType::BlockDevice,
        Mode::from_raw_mode(0o600),
        number,
    )?;
    let swap = match Swap::on(setup.path()) {
        Ok(swap) => swap,
        Err(error) => return setup.skip(&format!("swapon: {error}")),
    };
    let held = setup.hold(vec![Claim::new("swap").without_process()]);
    drop(swap);
    held
}
