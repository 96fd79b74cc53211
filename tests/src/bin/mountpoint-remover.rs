//! Removes the directory that is a mount point in other namespaces: `mountpoint-remover PATH`.
//!
//! In a namespace where nothing is mounted on it, rmdir(2) succeeds, and the kernel detaches what is mounted there
//! elsewhere.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use ebusy_tests::namespace::Namespace;
use rustix::mount::{UnmountFlags, unmount};

fn main() -> anyhow::Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("a path is needed")?);
    Namespace::Private.enter()?;
    unmount(&path, UnmountFlags::DETACH)?;
    fs::remove_dir(&path)?;
    println!("{{\"removed\":true}}");
    Ok(())
}
