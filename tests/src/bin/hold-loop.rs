//! Puts a loop device on a file, and closes the file: the device keeps it.

use std::{fs::OpenOptions, path::Path};

use ebusy_tests::{claim::Claim, guard::loop_device, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    if !Path::new("/dev/loop-control").exists() {
        return setup.skip("this kernel has no loop devices");
    }
    let file = OpenOptions::new().read(true).write(true).open(setup.path())?;
    // The device lets go of the file when it is closed, which the end of this process does at the latest.
    let (device, name) = loop_device(&file)?;
    drop(file);
    let claim = Claim::new("loop").without_process().held_by(name).regular();
    let held = setup.hold(vec![claim]);
    drop(device);
    held
}
