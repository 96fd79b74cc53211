//! The ways in which something holds a mount.

named! {
    /// Kinds of reference.
    #[derive(Default)]
    Kind {
        /// An open file description in a descriptor table.
        #[default]
        Fd => "fd",
        /// A current working directory.
        Cwd => "cwd",
        /// A root directory.
        Root => "root",
        /// A running executable.
        Exe => "exe",
        /// A mapped file.
        Mmap => "mmap",
        /// A mount on top of it.
        ChildMount => "child_mount",
        /// A mount, somewhere, of the file system that keeps it: a copy in another namespace, an overlay with the same upper
        /// directory.
        Mount => "mount",
        /// A UNIX socket bound to a path on it, or accepted by such a one.
        UnixSocket => "unix_socket",
        /// An open file that was sent over a UNIX socket and not received yet.
        ScmRights => "scm_rights",
        /// A file registered with an io_uring.
        IoUring => "io_uring",
        /// An event that a fanotify group has not read yet.
        Fanotify => "fanotify",
        /// The backing file of a loop device.
        Loop => "loop",
        /// An active swap file.
        Swap => "swap",
        /// A uprobe on a program or library.
        Uprobe => "uprobe",
        /// An interpreter that binfmt_misc keeps open (flag `F`).
        BinfmtMisc => "binfmt_misc",
        /// The file of process accounting.
        Accounting => "accounting",
        /// An export of the NFS server.
        NfsExport => "nfs_export",
        /// A path lookup or an open under way.
        PathWalk => "path_walk",
        /// A reference that outlives every process: the kernel drops it later, by itself.
        Deferred => "deferred",
        /// Something else in the kernel.
        Kernel => "kernel",
    }
}

/// `held_by` of a reference that only a cycle of UNIX sockets in flight has: Linux looks for such cycles when any UNIX
/// socket is closed (kernel fact 15).
pub const UNIX_GARBAGE: &str = "garbage of UNIX sockets";
/// `held_by` of a file that a request of an io_uring under way has.
pub const URING_REQUEST: &str = "a request under way";
/// `held_by` of a file that a request of AIO (`io_submit`) has, which waits.
pub const AIO_REQUEST: &str = "an AIO request under way";
