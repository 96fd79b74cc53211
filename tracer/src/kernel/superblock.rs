//! What a superblock has for itself: the upper and work directory of an overlay, a block device.

use std::{fs, os::fd::AsFd as _};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    memory::is_kernel_address,
    module::OverlayFields,
    ways::{SYSFS, open},
};

/// The directories that an overlay has for itself, as dentries of the file system below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayDirectories {
    /// Upper directory; `None` for an overlay without one.
    pub upper: Option<u64>,
    /// Work directory.
    pub work: Option<u64>,
}

impl Kernel<'_> {
    /// All superblocks of a file system type.
    #[must_use]
    pub fn superblocks(self, fs_type: &str) -> Vec<u64> {
        self.superblocks_of(fs_type)
    }

    /// Upper and work directory of an overlay; `None` where the kernel does not describe overlays, and they are not as
    /// they were before modules described themselves.
    #[must_use]
    pub fn overlay_directories(self, superblock: u64) -> Option<OverlayDirectories> {
        let t = &self.layout.table;
        if t.sb_info == ABSENT {
            return None;
        }
        let described: OverlayFields = self.ways.module();
        let known = ![described.layers, described.mount, described.work].contains(&ABSENT);
        let fields = if known {
            described
        } else {
            OverlayFields::LINUX_5_10
        };
        let info = self.memory.word(superblock, t.sb_info)?;
        let pointer =
            |from, offset| Some(self.memory.word(from, offset)?).filter(|at| is_kernel_address(*at));
        let upper_mount = pointer(pointer(info, fields.layers)?, fields.mount)
            .map(|vfsmount| vfsmount.wrapping_sub(u64::from(t.mount_mnt)));
        let directories = OverlayDirectories {
            upper: upper_mount.and_then(|mount| self.memory.word(mount, t.mount_root)),
            work: pointer(info, fields.work),
        };
        // What nobody described proves itself: mount, upper and work directory are of one file system.
        let proven = || {
            let below = self.memory.word(upper_mount?, t.mount_sb)?;
            let of = |dentry: Option<u64>| self.superblock_at(dentry?);
            Some([of(directories.upper), of(directories.work)] == [Some(below); 2])
        };
        (known || proven() == Some(true)).then_some(directories)
    }

    /// Superblock of a dentry.
    #[must_use]
    pub fn superblock_at(self, dentry: u64) -> Option<u64> {
        self.memory.word(dentry, self.layout.table.dentry_sb)
    }

    /// Device number of a superblock, as the kernel has it.
    #[must_use]
    pub fn superblock_device(self, superblock: u64) -> Option<u32> {
        self.memory.half(superblock, self.layout.table.sb_dev)
    }

    /// Who has a block device for itself, as the kernel notes it: the address of an open file, or of something else. By
    /// the number of the device; `None` where nobody has, or that cannot be told (before Linux 5.11).
    #[must_use]
    pub fn device_owner(self, device: u32) -> Option<u64> {
        let t = &self.layout.table;
        if t.bdev_device == ABSENT || t.bdev_holder == ABSENT {
            return None;
        }
        let (major, minor) = device_numbers(device);
        let directory = open(format!("/sys/dev/block/{major}:{minor}/"), SYSFS)?;
        let inode = self.own_inode(directory.as_fd())?;
        // kernfs: inode -> kernfs_node -> kobject, which is the first member of `struct device` (5.10 to 7.2).
        let node = self.memory.word(inode, t.inode_private)?;
        let device = self.memory.word(node, t.kernfs_private)?;
        self.memory
            .word(device.wrapping_sub(u64::from(t.bdev_device)), t.bdev_holder)
            .filter(|owner| is_kernel_address(*owner))
    }

    /// Those of some open files that are of a block device.
    #[must_use]
    pub fn files_of_device(self, files: &[u64], device: u32) -> Vec<u64> {
        const TYPE: u16 = 0o170_000;
        const BLOCK: u16 = 0o060_000;
        let t = &self.layout.table;
        if [t.file_inode, t.inode_rdev, t.inode_mode].contains(&ABSENT) {
            return Vec::new();
        }
        let inodes: Vec<u64> = self
            .memory
            .words(files, t.file_inode)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let devices = self.memory.halves(&inodes, t.inode_rdev);
        let modes = self.memory.read_batch(&inodes, t.inode_mode, 2);
        files
            .iter()
            .zip(devices)
            .zip(modes.iter())
            .filter(|((_, found), mode)| {
                let mode = mode.and_then(|piece| Some(u16::from_le_bytes(piece.try_into().ok()?)));
                *found == Some(device) && mode.is_some_and(|mode| mode & TYPE == BLOCK)
            })
            .map(|((file, _), _)| *file)
            .collect()
    }
}

/// Major and minor of a device number of the kernel: 12 bits of major, 20 of minor (`include/linux/kdev_t.h`).
#[must_use]
pub fn device_numbers(device: u32) -> (u32, u32) {
    (device >> 20, device & 0xf_ffff)
}

/// The file system types that need a block device.
#[must_use]
pub fn block_types() -> Vec<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix('\t'))
        .map(str::to_owned)
        .collect()
}
