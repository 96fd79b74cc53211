//! A mount to be unmounted: a tmpfs or an overlay, under a directory whose own mount is shared.

use std::{
    ffi::{CString, OsStr},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tempfile::TempDir;

use crate::namespace;

/// Pages of a file that is mapped at several places.
const FILE_SIZE: usize = 5 * 4096;

/// The file system of a [`Scratch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// A tmpfs.
    Tmpfs,
    /// An overlay whose layers are on one tmpfs.
    Overlay,
}

impl FileSystem {
    /// Its type, as the kernel names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Overlay => "overlay",
        }
    }
}

/// A mounted file system with some files; it is unmounted when this value goes.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    target: PathBuf,
    file_system: FileSystem,
    mount_id: u32,
    mount_namespace: u32,
}

impl Scratch {
    /// Mounts it in the caller's namespace. It has `file`, `second` and `third` (in the lower layer of an overlay),
    /// `upper` (in the upper one), and a directory `dir` with a `file`.
    pub fn new(file_system: FileSystem) -> Result<Self> {
        Self::within(&std::env::temp_dir(), OsStr::new("target"), file_system)
    }

    /// Mounts it below a directory, on a mount point of that name in a directory of its own.
    pub fn within(parent: &Path, name: &OsStr, file_system: FileSystem) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("ebusy-test-")
            .tempdir_in(parent)?;
        // The value exists before anything is mounted, so that a failure half-way cleans up, too.
        let mut scratch = Self {
            target: directory.path().join(name),
            directory,
            file_system,
            mount_id: 0,
            mount_namespace: namespace::current()?,
        };
        let target = &scratch.target;
        fs::create_dir(target)?;
        match file_system {
            FileSystem::Tmpfs => {
                mount("ebusy-scratch", target, "tmpfs", MountFlags::empty(), None)
                    .context("mount a tmpfs")?;
                populate(target)?;
            }
            FileSystem::Overlay => {
                let layers = scratch.layers();
                fs::create_dir(&layers)?;
                mount("ebusy-layers", &layers, "tmpfs", MountFlags::empty(), None)
                    .context("mount a tmpfs")?;
                let [lower, upper, work] = ["lower", "upper", "work"].map(|name| layers.join(name));
                for layer in [&lower, &upper, &work] {
                    fs::create_dir(layer)?;
                }
                populate(&lower)?;
                let options =
                    [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)].map(|(name, path)| {
                        let mut option = format!("{name}=").into_bytes();
                        option.extend_from_slice(path.as_os_str().as_bytes());
                        option
                    });
                let options = CString::new(options.join(&b','))?;
                mount(
                    "ebusy-scratch",
                    target,
                    "overlay",
                    MountFlags::empty(),
                    Some(options.as_c_str()),
                )
                .context("mount an overlay")?;
            }
        }
        fs::write(target.join("upper"), vec![b'u'; FILE_SIZE])?;
        scratch.mount_id = namespace::mount_id(&scratch.target)?;
        Ok(scratch)
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// A path on it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        if name == "." {
            self.target.clone()
        } else {
            self.target.join(name)
        }
    }

    /// The directory that the mount point is in; it is on a shared mount.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its file system.
    #[must_use]
    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// Its mount id.
    #[must_use]
    pub fn mount_id(&self) -> u32 {
        self.mount_id
    }

    /// The number of its mount namespace.
    #[must_use]
    pub fn mount_namespace(&self) -> u32 {
        self.mount_namespace
    }

    /// Copies a program onto it.
    pub fn install(&self, program: &Path) -> Result<PathBuf> {
        let copy = self
            .target
            .join(program.file_name().context("a program has a name")?);
        fs::copy(program, &copy).with_context(|| program.display().to_string())?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// Tries to unmount it; false if it is busy.
    pub fn umount(&self) -> Result<bool> {
        self.umount_with(UnmountFlags::empty())
    }

    /// Tries to unmount it with flags; false if it is busy.
    pub fn umount_with(&self, flags: UnmountFlags) -> Result<bool> {
        match unmount(&self.target, flags) {
            Ok(()) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(error) => Err(error).context("umount2"),
        }
    }

    fn layers(&self) -> PathBuf {
        self.directory.path().join("layers")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever is mounted there still, also after a failure.
        for path in [&self.target, &self.layers()] {
            while unmount(path, UnmountFlags::DETACH).is_ok() {}
        }
    }
}

fn populate(root: &Path) -> Result<()> {
    fs::create_dir(root.join("dir"))?;
    for name in ["file", "second", "third", "dir/file"] {
        fs::write(root.join(name), vec![b'x'; FILE_SIZE])?;
    }
    Ok(())
}
