//! A child shares the descriptor table of its parent (`CLONE_FILES`), which has opened a file and ended.

use std::{fs::File, os::fd::AsRawFd as _, os::unix::process::parent_id, process, thread, time::Duration};

use ebusy_tests::{
    claim::Claim,
    hold::Setup,
    process::{ForkedChild, Numbers, adopt_orphans, end_with_parent},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let numbers = Numbers::new()?;
    adopt_orphans();
    let adopter = process::id();
    let parent = ForkedChild::spawn(0, || {
        let file = File::open(setup.path())?;
        numbers.tell(file.as_raw_fd() as u32)?;
        let leaver = process::id();
        // SAFETY: without a stack and with memory of its own the child goes on as after fork(2), in one thread.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => {
                while parent_id() == leaver {
                    thread::sleep(Duration::from_millis(1));
                }
                end_with_parent();
                if parent_id() == adopter {
                    numbers.tell(process::id())?;
                }
                // The descriptor is in the table that the leaver has left behind.
                std::mem::forget(file);
                Ok(())
            }
            // SAFETY: it takes no pointers; the table stays with the child, so nothing is to be closed.
            _ => unsafe { libc::_exit(0) },
        }
    })?;
    let fd = numbers.hear()?;
    let child = ForkedChild::orphan(numbers.hear()?);
    let opener = parent.pid();
    drop(parent);
    let mut claim = Claim::fd_of(child.pid(), fd, "read")
        .regular()
        .opened_since(setup.began);
    claim.opened_by = Some(opener);
    setup.hold(vec![claim])
}
