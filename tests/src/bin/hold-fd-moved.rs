//! Opens a file and goes into a private namespace afterwards: the descriptor stays where it was opened, unlike the
//! working and the root directory, which move to the copy.

use std::{fs::File, os::fd::AsRawFd as _};

use ebusy_tests::{claim::Claim, hold::Setup, namespace::Namespace, process::ForkedChild};

fn main() -> anyhow::Result<()> {
    let mut setup = Setup::from_args()?;
    // Somebody stays behind, and keeps the namespace that the file is in.
    let _stays = ForkedChild::pause()?;
    let file = File::open(setup.path())?;
    let claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    setup.move_to(Namespace::Private)?;
    setup.hold(vec![claim])
}
