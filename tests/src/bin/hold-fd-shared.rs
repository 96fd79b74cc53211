//! One open file description, shared by dup(2) and by fork(2): three descriptors in each of two processes, one
//! reference.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{
    claim::{Claim, Owner},
    hold::Setup,
    process::ForkedChild,
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let file = File::open(setup.path())?;
    let mut claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    let duplicates = [file.try_clone()?, file.try_clone()?];
    let child = ForkedChild::pause()?;
    let descriptors = [&file, &duplicates[0], &duplicates[1]];
    claim.owners = [std::process::id(), child.pid()]
        .into_iter()
        .flat_map(|pid| {
            descriptors.iter().map(move |file| Owner {
                pid,
                tid: None,
                fd: Some(file.as_raw_fd() as u32),
            })
        })
        .collect();
    setup.hold(vec![claim])
}
