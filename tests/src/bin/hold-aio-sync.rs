//! Syncs a directory by AIO, and closes it: `hold-aio-sync DIRECTORY RELEASE`. A worker of the kernel does it, and waits for
//! a server that does not answer before somebody looks for the other name. (A file of FUSE could not be closed meanwhile:
//! its lock is that of the sync.)

use std::{fs::File, os::fd::AsFd as _};

use anyhow::ensure;
use ebusy_tests::{aio::Context, claim::Claim, hold::Setup, pause};

fn main() -> anyhow::Result<()> {
    let setup = Setup::from_args()?;
    let Some(context) = Context::new()? else {
        return setup.skip("no AIO");
    };
    let file = File::open(setup.path())?;
    context.sync(file.as_fd())?;
    drop(file);
    // Until a worker has taken it.
    pause::kernel_works();
    ensure!(!context.is_done()?, "nothing waits");
    let held = setup.hold(vec![Claim::new("kernel").held_by("an AIO request under way")]);
    // The end of the process would wait for it.
    let _ = setup.paths[1].metadata();
    held
}
