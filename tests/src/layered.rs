//! Mounts beside a scratch, whose sources are on it.

use std::{ffi::CString, fmt::Write as _, fs, path::Path};

use anyhow::Result;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::TempDir;

use crate::scratch::Scratch;

/// A bind mount in a directory of its own.
#[derive(Debug)]
pub struct Bind(TempDir);

impl Bind {
    /// Makes it.
    pub fn of(path: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-bind-").tempdir()?;
        mount_bind(path, directory.path())?;
        Ok(Self(directory))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// An overlay mounted elsewhere, whose layers are on the scratch.
#[derive(Debug)]
pub struct Layered {
    directory: TempDir,
    mounted: bool,
}

impl Layered {
    /// Mounts it.
    pub fn over(scratch: &Scratch, writable: bool) -> Result<Self> {
        let mut overlay = Self {
            directory: tempfile::Builder::new().prefix("ebusy-layered-").tempdir()?,
            mounted: false,
        };
        let lower = scratch.join("dir");
        let mut options = format!("lowerdir={}", lower.display());
        if writable {
            for name in ["over-upper", "over-work"] {
                fs::create_dir(scratch.join(name))?;
            }
            let [upper, work] = ["over-upper", "over-work"].map(|name| scratch.join(name));
            write!(
                options,
                ",upperdir={},workdir={}",
                upper.display(),
                work.display()
            )?;
        } else {
            // Without an upper layer, overlayfs requires two lower ones.
            write!(options, ":{}", scratch.directory().display())?;
        }
        let options = CString::new(options)?;
        mount(
            "ebusy-layered",
            overlay.directory.path(),
            "overlay",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )?;
        overlay.mounted = true;
        Ok(overlay)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(self.directory.path(), UnmountFlags::DETACH);
        }
    }
}
