//! Has a fanotify event unread; the file that it is about has been closed.

use std::{fs::File, process};

use ebusy_tests::{claim::Claim, fanotify::Group, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(group) = Group::watching(setup.path(), libc::FAN_CLASS_NOTIF, libc::FAN_OPEN)? else {
        return setup.skip("no fanotify");
    };
    drop(File::open(setup.path())?);
    let mut claim = Claim::new("fanotify").held_by(format!("caused by pid {}", process::id()));
    claim.owners[0].fd = Some(group.fd());
    setup.hold(vec![claim])
}
