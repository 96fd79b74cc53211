//! Waits by AIO until an empty FIFO can be read, and closes it: the request keeps it until something comes.

use std::os::fd::AsFd as _;

use anyhow::ensure;
use ebusy_tests::{aio::Context, claim::Claim, hold::Setup};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(context) = Context::new()? else {
        return setup.skip("no AIO");
    };
    mknodat(CWD, setup.path(), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    // Nobody has ever written: that is no end. A file to read and write has two queues of who waits, which AIO refuses.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, setup.path(), flags, Mode::empty())?;
    context.poll(file.as_fd())?;
    drop(file);
    ensure!(!context.is_done()?, "nothing waits");
    setup.hold(vec![Claim::new("kernel").held_by("an AIO request under way")])
}
