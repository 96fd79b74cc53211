//! Does not answer a fanotify permission event: the event, and the open of a child that waits for the answer.

use std::fs::File;

use ebusy_tests::{claim::Claim, fanotify::Group, hold::Setup, process::ForkedChild};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(group) = Group::watching(setup.path(), libc::FAN_CLASS_CONTENT, libc::FAN_OPEN_PERM)? else {
        return setup.skip("no fanotify permission events");
    };
    let path = setup.path().clone();
    let child = ForkedChild::blocked_in(libc::SYS_openat, || drop(File::open(path)))?;
    let mut event = Claim::new("fanotify").held_by(format!("pid {} waits for the answer", child.pid()));
    event.owners[0].fd = Some(group.fd());
    let mut open = Claim::new("path_walk").held_by("an open that waits");
    open.owners[0].pid = child.pid();
    // The lookup and the file, which is not open yet: it has no backing file.
    (open.refs, open.overlay_refs) = (2, 2);
    // The child has inherited the descriptor.
    event.owners.push(ebusy_tests::claim::Owner {
        pid: child.pid(),
        tid: None,
        fd: Some(group.fd()),
    });
    setup.hold(vec![event, open])
}
