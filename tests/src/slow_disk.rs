//! A file system on a slow disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{
    ext2,
    fuse::Disk,
    guard,
    holder::Skip,
    scratch::{FileSystem, Scratch},
};

/// An ext2 on a loop device, whose file is on a FUSE; quick at first.
#[derive(Debug)]
pub struct SlowDisk {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its loop device.
    pub disk: Disk,
    /// The mount that it is mounted on.
    pub scratch: Scratch,
}

impl SlowDisk {
    /// Mounts it; a [`Skip`] if the kernel lacks something for it.
    pub fn new() -> Result<Self> {
        let known = fs::read_to_string("/proc/filesystems")?;
        if !known.lines().any(|line| line.trim() == "ext2") || !Path::new("/dev/loop-control").exists() {
            let skip = "this kernel has no ext2, or no loop devices".to_owned();
            return Err(Skip { skip }.into());
        }
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let path = scratch.join("slow");
        fs::create_dir(&path)?;
        let (disk, file) = Disk::new(ext2::image())?;
        let (_device, name) = guard::loop_device(&file)?;
        mount(name.as_str(), &path, "ext2", MountFlags::empty(), None).context("mount an ext2")?;
        Ok(Self { path, disk, scratch })
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.disk.take(Duration::ZERO);
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}
