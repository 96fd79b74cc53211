//! Leaves a zombie that had a file open and its working directory on the mount; it holds nothing.

use std::{fs::File, mem, ptr};

use ebusy_tests::{
    hold::Setup,
    process::{ForkedChild, Numbers},
};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let numbers = Numbers::new()?;
    let child = ForkedChild::spawn(0, || {
        rustix::process::chdir(setup.path().parent().unwrap_or(setup.path()))?;
        let _file = File::open(setup.path())?;
        numbers.tell(0)?;
        // SAFETY: it takes no pointers; nothing of the parent is to be run here.
        unsafe { libc::_exit(0) }
    })?;
    numbers.hear()?;
    // SAFETY: a null pointer is allowed. The child is waited for and stays a zombie.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        libc::waitid(
            libc::P_PID,
            child.pid(),
            ptr::from_mut(&mut info),
            libc::WEXITED | libc::WNOWAIT,
        );
    }
    setup.hold(Vec::new())
}
