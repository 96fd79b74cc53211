//! A process waits for its child as after vfork(2), which nothing but a fatal signal ends; both share the table that
//! has the descriptor.

use std::{fs::File, os::fd::AsRawFd as _, process};

use ebusy_tests::{
    claim::{Claim, Owner},
    hold::Setup,
    process::{ForkedChild, Numbers, adopt_orphans},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let numbers = Numbers::new()?;
    adopt_orphans();
    let parent = ForkedChild::spawn(0, || {
        let file = File::open(setup.path())?;
        numbers.tell(file.as_raw_fd() as u32)?;
        // The child has memory of its own; what counts is that the parent sleeps until it has let go of it.
        let child = ForkedChild::spawn(libc::CLONE_VFORK | libc::CLONE_FILES, || {
            Ok(numbers.tell(process::id())?)
        })?;
        std::mem::forget((file, child));
        Ok(())
    })?;
    let fd = numbers.hear()?;
    // It is adopted once its parent is gone: values go in the order of their fields.
    let family = (parent, ForkedChild::orphan(numbers.hear()?));
    let mut claim = Claim::fd(fd, "read").regular().opened_since(setup.began);
    claim.owners = [family.0.pid(), family.1.pid()]
        .map(|pid| Owner {
            pid,
            tid: None,
            fd: Some(fd),
        })
        .to_vec();
    setup.hold(vec![claim])
}
