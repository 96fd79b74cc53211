//! A mount to be unmounted: a tmpfs, an overlay, an ext2 or a FUSE, under a directory whose own mount is shared.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount},
};
use tempfile::TempDir;

use crate::{ext2, fuse, guard, holder::Skip, namespace};

/// Pages of a file that is mapped at several places.
const FILE_SIZE: usize = 5 * 4096;

/// The file system of a [`Scratch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// A tmpfs.
    Tmpfs,
    /// An overlay whose layers are on one tmpfs.
    Overlay,
    /// An overlay whose lower layer is on one tmpfs, the upper one on another.
    OverlayOfTwo,
    /// An ext2 in a file of a tmpfs, by a loop device: for tests that need blocks.
    Ext2,
    /// A FUSE whose server does not answer everything ([`fuse`]).
    Fuse,
}

impl FileSystem {
    /// Its name in the names of tests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Overlay => "overlay",
            Self::OverlayOfTwo => "overlay_of_two",
            Self::Ext2 => "ext2",
            Self::Fuse => "fuse",
        }
    }

    /// Its type, as the kernel names it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Overlay | Self::OverlayOfTwo => "overlay",
            Self::Ext2 => "ext2",
            Self::Fuse => "fuse",
        }
    }

    /// True for an overlay, where an open regular file has a backing file.
    #[must_use]
    pub fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayOfTwo)
    }
}

/// A mounted file system with some files; dropping this value unmounts it.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    target: PathBuf,
    file_system: FileSystem,
    source: String,
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
            source: "ebusy-scratch".to_owned(),
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
            FileSystem::Overlay | FileSystem::OverlayOfTwo => {
                let [lower, upper] = scratch.layers();
                let two = file_system == FileSystem::OverlayOfTwo;
                mount_layers(&lower)?;
                if two {
                    mount_layers(&upper)?;
                }
                let upper = if two { upper } else { lower.clone() };
                mount_overlay(target, &lower, &upper)?;
            }
            FileSystem::Ext2 => {
                let [layer, _] = scratch.layers();
                mount_layers(&layer)?;
                scratch.source = mount_ext2(target, &layer.join("image"))?;
                populate(target)?;
            }
            FileSystem::Fuse => {
                let root = fuse::Connection::new()?.serve_in_thread();
                move_mount(&root, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .context("mount a FUSE")?;
            }
        }
        if file_system != FileSystem::Fuse {
            fs::write(target.join("upper"), vec![b'u'; FILE_SIZE])?;
        }
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

    /// The mount source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
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

    /// Makes a directory on it, with the files that a scratch has.
    pub fn furnish(&self, directory: &str) -> Result<()> {
        let path = self.join(directory);
        fs::create_dir(&path)?;
        populate(&path)?;
        Ok(fs::write(path.join("upper"), vec![b'u'; FILE_SIZE])?)
    }

    /// Copies a program onto it.
    pub fn install(&self, program: &Path) -> Result<PathBuf> {
        self.install_in("", program)
    }

    /// Copies a program into a directory of it.
    pub fn install_in(&self, directory: &str, program: &Path) -> Result<PathBuf> {
        let copy = self
            .target
            .join(directory)
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

    fn layers(&self) -> [PathBuf; 2] {
        ["layers", "upper-layers"].map(|name| self.directory.path().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Unmounts everything that is still there, also after a failure.
        let [lower, upper] = self.layers();
        for path in [&self.target, &lower, &upper] {
            while unmount(path, UnmountFlags::DETACH).is_ok() {}
        }
    }
}

/// A tmpfs for the layers or image of a scratch.
fn mount_layers(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    mount("ebusy-layers", at, "tmpfs", MountFlags::empty(), None).context("mount a tmpfs")
}

fn mount_overlay(target: &Path, lower: &Path, upper: &Path) -> Result<()> {
    let layers = [
        ("lowerdir", lower.join("lower")),
        ("upperdir", upper.join("upper")),
        ("workdir", upper.join("work")),
    ];
    for (_, layer) in &layers {
        fs::create_dir(layer)?;
    }
    populate(&layers[0].1)?;
    let options = layers.map(|(name, path)| {
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
    .context("mount an overlay")
}

/// The image has its loop device until the file system is unmounted.
fn mount_ext2(target: &Path, image: &Path) -> Result<String> {
    let known = fs::read_to_string("/proc/filesystems")?;
    if !known.lines().any(|line| line.trim() == "ext2") || !Path::new("/dev/loop-control").exists() {
        let skip = "this kernel has no ext2, or no loop devices".to_owned();
        return Err(Skip { skip }.into());
    }
    fs::write(image, ext2::image())?;
    let image = File::options().read(true).write(true).open(image)?;
    let (_device, name) = guard::loop_device(&image)?;
    mount(name.as_str(), target, "ext2", MountFlags::empty(), None).context("mount an ext2")?;
    Ok(name)
}

fn populate(root: &Path) -> Result<()> {
    fs::create_dir(root.join("dir"))?;
    for name in ["file", "second", "third", "dir/file"] {
        fs::write(root.join(name), vec![b'x'; FILE_SIZE])?;
    }
    Ok(())
}
