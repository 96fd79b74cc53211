//! Many mounts that come and go.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Result;
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tempfile::TempDir;

/// Until its exec a child has copies of all descriptors of this process, close-on-exec or not: so the test itself would
/// hold a file that is open while a child starts.
static STARTING: Mutex<()> = Mutex::new(());

/// Runs it while no child is being started.
pub fn alone<T>(run: impl FnOnce() -> T) -> T {
    let _guard = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    run()
}

/// A directory of mount points below a shared mount.
#[derive(Debug)]
pub struct Many {
    directory: TempDir,
    count: usize,
}

impl Many {
    /// Makes so many.
    pub fn new(count: usize) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-many-").tempdir()?;
        let many = Self { directory, count };
        for path in many.paths() {
            fs::create_dir(&path)?;
        }
        Ok(many)
    }

    /// Their directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Their number.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.count).map(|number| self.path(number))
    }

    /// One of them, from 0.
    #[must_use]
    pub fn path(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("mount-{number}"))
    }

    /// Mounts a tmpfs with a file on each.
    pub fn mount(&self) -> Result<()> {
        for path in self.paths() {
            mount("ebusy-many", &path, "tmpfs", MountFlags::empty(), None)?;
            alone(|| fs::write(path.join("file"), "x"))?;
        }
        Ok(())
    }

    /// Tries once to unmount each of them; returns those that were refused.
    pub fn unmount(&self) -> Result<Vec<PathBuf>> {
        let mut refused = Vec::new();
        for path in self.paths() {
            match unmount(&path, UnmountFlags::empty()) {
                Ok(()) => {}
                Err(Errno::BUSY) => {
                    refused.push(path.clone());
                    unmount(&path, UnmountFlags::DETACH)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(refused)
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        for path in self.paths() {
            while unmount(&path, UnmountFlags::DETACH).is_ok() {}
        }
    }
}
