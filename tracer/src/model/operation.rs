//! What else than an umount is refused because something is busy, and why.

named! {
    /// What was to be done, other than to unmount.
    Operation {
        /// Remove a directory: rmdir, unlinkat.
        Rmdir => "rmdir",
        /// Remove a file: unlink, unlinkat.
        Unlink => "unlink",
        /// Rename, or replace by renaming.
        Rename => "rename",
        /// Mount: mount, fsconfig.
        Mount => "mount",
        /// Make a mounted file system read-only, or change it otherwise: mount, fsconfig, `mount_setattr`.
        Remount => "remount",
        /// Open a block device for oneself.
        Open => "open",
        /// Remove a device of device-mapper: `DM_DEV_REMOVE`.
        DmRemove => "dm_remove",
        /// Take the file away from a loop device, `LOOP_CLR_FD`, which succeeded while others kept the device.
        LoopClear => "loop_clear",
    }
}

impl Operation {
    /// Whether it was not refused but is not done before the last user has gone: nobody asks again, so it is followed to
    /// that end.
    #[must_use]
    pub fn is_pending(self) -> bool {
        self == Self::LoopClear
    }
}

named! {
    /// Why: `reason` of an incident that is about something else than references to a mount.
    Reason {
        /// Something is mounted on it, in the mount namespace of the caller.
        MountPoint => "mount_point",
        /// The same file system is mounted right there already.
        MountedThere => "mounted_there",
        /// A layer is the upper or work directory of another overlay that is still there.
        OverlayInUse => "overlay_in_use",
        /// The block device is in use.
        DeviceInUse => "device_in_use",
        /// Files are open for writing, or removed files are still open.
        OpenFiles => "open_files",
        /// Nothing was found that explains it.
        Unknown => "unknown",
    }
}
