//! Sets a uprobe by tracefs, which belongs to no process.

use std::os::unix::ffi::OsStrExt as _;

use ebusy_tests::{
    claim::Claim,
    guard::{Guard, detached, write_below},
    hold::Setup,
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Ok(tracefs) = detached("tracefs") else {
        return setup.skip("tracefs cannot be mounted");
    };
    let event = format!("ebusy_test/held{}", std::process::id());
    let remove = format!("-:{event}");
    let _guard = Guard::start(|| {
        let _ = write_below(&tracefs, "uprobe_events", remove.as_bytes());
    })?;
    let mut set = format!("p:{event} ").into_bytes();
    set.extend_from_slice(setup.path().as_os_str().as_bytes());
    set.extend_from_slice(b":0x10");
    if let Err(error) = write_below(&tracefs, "uprobe_events", &set) {
        return setup.skip(&format!("no uprobe can be set: {error:#}"));
    }
    let claim = Claim::new("uprobe").without_process().held_by(event);
    setup.hold(vec![claim])
}
