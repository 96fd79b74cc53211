//! The leader of the process has exited, and is a zombie; another thread lives and holds a file open.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    process, thread,
    time::Duration,
};

use ebusy_tests::{claim::Claim, hold::Setup};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    thread::Builder::new().spawn(move || match hold(&setup) {
        Ok(()) => process::exit(0),
        Err(error) => {
            eprintln!("{error:#}");
            process::exit(1)
        }
    })?;
    // SAFETY: it ends this thread, and runs nothing of the process; nobody joins it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended")
}

fn hold(setup: &Setup) -> anyhow::Result<()> {
    let leader = format!("/proc/{0}/task/{0}/stat", process::id());
    while !fs::read_to_string(&leader)?.contains(") Z ") {
        thread::sleep(Duration::from_millis(1));
    }
    let file = File::open(setup.path())?;
    let mut claim = Claim::fd(file.as_raw_fd() as u32, "read")
        .regular()
        .opened_since(setup.began);
    // It is the only one that is left to have it.
    claim.owners[0].tid = Some(rustix::thread::gettid().as_raw_nonzero().get() as u32);
    setup.hold(vec![claim])
}
