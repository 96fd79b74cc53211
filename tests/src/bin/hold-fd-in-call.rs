//! Closes a descriptor that a thread reads from: `hold-fd-in-call FIFO`. The file is in no table; only the call has it.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::fd::IntoRawFd as _,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use ebusy_tests::{claim::Claim, hold::Setup};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Looks at the thread at the most, each after 10 ms.
const TRIES: u32 = 500;

fn main() -> Result<()> {
    let setup = Setup::from_args()?;
    mknodat(CWD, setup.path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // It is its own writer, so that the read waits for what is written.
    let fifo = OpenOptions::new().read(true).write(true).open(setup.path())?;
    let fd = fifo.into_raw_fd();
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = sender.send(rustix::thread::gettid().as_raw_nonzero());
        // SAFETY: a byte is read into a buffer of one; nobody else uses the number while the descriptor is closed.
        unsafe { libc::read(fd, [0u8; 1].as_mut_ptr().cast(), 1) }
    });
    wait_for_call(receiver.recv()?.get())?;
    // SAFETY: nobody owns the descriptor any more.
    unsafe { libc::close(fd) };
    let claim = Claim::fd(fd.cast_unsigned(), "read+write").without_process();
    let held = setup.hold(vec![claim]);
    OpenOptions::new()
        .write(true)
        .open(setup.path())?
        .write_all(b"x")?;
    if reader.join().is_err() {
        bail!("the reader panicked");
    }
    held
}

fn wait_for_call(tid: i32) -> Result<()> {
    for _ in 0..TRIES {
        let call = fs::read_to_string(format!("/proc/self/task/{tid}/syscall"))?;
        if call.starts_with(&format!("{} ", libc::SYS_read)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("the thread does not read")
}
