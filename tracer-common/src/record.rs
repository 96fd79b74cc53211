//! Records that the programs send. All are `repr(C)` without padding; kernel addresses in them are keys, never
//! to be trusted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length of a command name, with its NUL.
pub const COMM_LEN: usize = 16;
/// Length of a path, with its NUL.
pub const PATH_MAX: usize = 4096;
/// Ancestors in a record at the most.
pub const ANCESTORS: usize = 8;
/// Mounts that one busy check looks at, as far as a record has room.
pub const COMPARED_MAX: usize = 32;

/// What a record is.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// [`UmountRecord`].
    Umount = 1,
    /// [`OpenRecord`]: a file was opened on a watched mount.
    Open = 2,
    /// [`OpenRecord`]: its last reference went.
    Close = 3,
    /// [`NamespaceRecord`].
    Namespace = 4,
    /// [`MountRecord`].
    Mount = 5,
    /// [`OperationRecord`].
    Operation = 6,
}

impl TryFrom<u32> for RecordKind {
    type Error = u32;

    fn try_from(kind: u32) -> Result<Self, u32> {
        Ok(match kind {
            1 => Self::Umount,
            2 => Self::Open,
            3 => Self::Close,
            4 => Self::Namespace,
            5 => Self::Mount,
            6 => Self::Operation,
            other => return Err(other),
        })
    }
}

/// What every record begins with.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// [`RecordKind`].
    pub kind: u32,
    /// Bytes of the record.
    pub len: u32,
    /// Boot clock, ns.
    pub time: u64,
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start of the process, boot clock, ns.
    pub start: u64,
    /// Real user id.
    pub uid: u32,
    /// Number of the mount namespace.
    pub mnt_ns: u32,
    /// On whose account it happened ([`crate::Source`]).
    pub source: u64,
    /// Command name of the thread.
    pub comm: [u8; COMM_LEN],
}

/// A `struct path`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PathRef {
    /// Address of the `struct mount` (not of its `vfsmount`).
    pub mount: u64,
    /// Address of the dentry.
    pub dentry: u64,
}

/// An ancestor of a caller.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ancestor {
    /// Process id.
    pub tgid: u32,
    /// Padding.
    pub reserved: u32,
    /// Command name.
    pub comm: [u8; COMM_LEN],
}

/// A mount that the kernel's busy check looked at.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Compared {
    /// Address of the `struct mount`.
    pub mount: u64,
    /// What `mnt_get_count` returned.
    pub count: i32,
    /// Padding.
    pub reserved: u32,
}

/// An umount2 between its entry and its return: the value of a map whose key is the thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UmountCall {
    /// Address of the thread's `task_struct`.
    pub task: u64,
    /// On whose account ([`crate::Source`]).
    pub source: u64,
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// Boot clock when the last count was read, ns; 0 for never.
    pub checked: u64,
    /// Address of the path in the caller's memory; 0 where the tier has `target`.
    pub path: u64,
    /// What the path resolved to; zero where the tier has `path`.
    pub target: PathRef,
    /// Which mount that was: `mnt_id_unique`, else `mnt_id`; 0 where it is not known. Addresses are given away again.
    pub target_number: u64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
    /// The busy check is running: `mnt_get_count` is called for many other reasons.
    pub in_busy_check: u32,
    /// Whether the busy check ran.
    pub busy_check_ran: u32,
    /// Mounts compared.
    pub compared_count: u32,
    /// What the busy check compared.
    pub compared: [Compared; COMPARED_MAX],
    /// The mount that `mnt_get_count` is at work on, where its return does not tell (kprobe).
    pub counting: u64,
    /// One of [`path_status`]; written last.
    pub path_status: u32,
    /// Bytes of `text` in use, without the NUL.
    pub path_len: u32,
    /// The path as it was passed: read here, where a page that is not there is a fault and not a wait. Whoever reads the
    /// memory of another process later waits for whoever provides that memory.
    pub text: [u8; PATH_MAX],
}

impl UmountCall {
    /// Of nothing.
    pub const BLANK: Self = Self {
        task: 0,
        source: 0,
        entered: 0,
        checked: 0,
        path: 0,
        target: PathRef { mount: 0, dentry: 0 },
        target_number: 0,
        flags: 0,
        in_busy_check: 0,
        busy_check_ran: 0,
        compared_count: 0,
        compared: [Compared {
            mount: 0,
            count: 0,
            reserved: 0,
        }; COMPARED_MAX],
        counting: 0,
        path_status: path_status::ABSENT,
        path_len: 0,
        text: [0; PATH_MAX],
    };

    /// The path as it was passed, if it could be read.
    #[must_use]
    pub fn passed(&self) -> Option<&[u8]> {
        let whole = self.path_status == path_status::WHOLE;
        self.text.get(..self.path_len as usize).filter(|_| whole)
    }
}

/// One umount2 that returned.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UmountRecord {
    /// Time is that of the return.
    pub header: Header,
    /// Address of the thread's `task_struct`.
    pub task: u64,
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// Boot clock when the count that refused it was read, ns; 0 where the tier does not see it.
    pub checked: u64,
    /// What it returned: 0, or a negative errno.
    pub ret: i64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
    /// One of [`path_status`].
    pub path_status: u32,
    /// Bytes of `path` in use, without the NUL.
    pub path_len: u32,
    /// Ancestors in use.
    pub ancestor_count: u32,
    /// The caller's working directory.
    pub cwd: PathRef,
    /// The caller's root directory.
    pub root: PathRef,
    /// What the path resolved to; zero at the tracepoint tier.
    pub target: PathRef,
    /// Which mount that was: `mnt_id_unique`, else `mnt_id`; 0 where it is not known.
    pub target_number: u64,
    /// Whether the busy check ran (`propagate_mount_busy`); 0 at the tracepoint tier.
    pub busy_check_ran: u32,
    /// Mounts compared; more than [`COMPARED_MAX`] if they did not all fit.
    pub compared_count: u32,
    /// What the busy check compared, in order; the last is always there, in the last place in use.
    pub compared: [Compared; COMPARED_MAX],
    /// Nearest first.
    pub ancestors: [Ancestor; ANCESTORS],
    /// The path as it was passed.
    pub path: [u8; PATH_MAX],
}

/// What became of the path argument.
pub mod path_status {
    /// Read whole.
    pub const WHOLE: u32 = 0;
    /// Not readable.
    pub const FAULT: u32 = 1;
    /// Not asked for at this tier, or not yet.
    pub const ABSENT: u32 = 2;
}

/// A file was opened on a watched mount, or closed for good.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OpenRecord {
    /// Who opened it.
    pub header: Header,
    /// Address of the `struct file`.
    pub file: u64,
    /// Where.
    pub path: PathRef,
    /// Our own number of the watched mount; 0 where it is newer than user space's last look.
    pub watch: u64,
    /// Descriptor, -1 where it is not known.
    pub fd: i32,
    /// `O_*`.
    pub flags: u32,
    /// `FMODE_*`.
    pub mode: u32,
    /// Type and permissions of its inode; 0 where they are not known.
    pub inode_mode: u32,
    /// Hash and length of its name; 0 where they are not known.
    pub name: u64,
}

/// An open file of a watched mount in the ledger; its key is the address of the `struct file`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LedgerEntry {
    /// Boot clock, ns; 0 while the entry is being written, and where user space found the file by looking.
    pub opened: u64,
    /// Boot clock, ns; 0 while it is open.
    pub closed: u64,
    /// Where.
    pub path: PathRef,
    /// Start of the process that opened it, boot clock, ns.
    pub start: u64,
    /// Hash and length of its name; 0 where they are not known.
    pub name: u64,
    /// On whose account it was opened: `source`.
    pub source: u64,
    /// `mnt_id`, to tell that the address is still that mount.
    pub mount_id: u32,
    /// Process that opened it.
    pub tgid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Number of its mount namespace.
    pub mnt_ns: u32,
    /// `O_*`.
    pub flags: u32,
    /// `FMODE_*`.
    pub mode: u32,
    /// Type and permissions of its inode; 0 where they are not known.
    pub inode_mode: u32,
    /// Command name of the thread.
    pub comm: [u8; COMM_LEN],
}

/// Key of a file that was closed: its address comes again.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ClosedKey {
    /// Address of the `struct file`.
    pub file: u64,
    /// When it was opened.
    pub opened: u64,
}

/// Which call changed the mount namespace.
pub mod namespace_operation {
    /// Entered an existing one.
    pub const SETNS: u32 = 1;
    /// Made a copy for itself.
    pub const UNSHARE: u32 = 2;
    /// Was born in a copy.
    pub const CLONE: u32 = 3;
}

/// A thread came into another mount namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NamespaceRecord {
    /// `mnt_ns` is the new one.
    pub header: Header,
    /// One of [`namespace_operation`].
    pub operation: u32,
    /// Parent process.
    pub parent: u32,
}

/// A mount tree may have changed.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MountRecord {
    /// Who did it.
    pub header: Header,
    /// System call number.
    pub syscall: u32,
    /// Padding.
    pub reserved: u32,
}

/// Texts of an [`OperationRecord`].
pub const OPERATION_TEXTS: usize = 3;
/// Length of the name of a file system type, with its NUL, as far as a record has room.
pub const FS_NAME: usize = 32;

/// A system call other than umount2 that returned EBUSY; and every `LOOP_CLR_FD`: it succeeds, and the device stays.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OperationRecord {
    /// Time is that of the return.
    pub header: Header,
    /// Number of the system call on x86-64; `u32::MAX` for the open of a block device, of which only the kernel's own
    /// function was seen.
    pub syscall: u32,
    /// Device number, of the open of a block device, and of the device of `LOOP_CLR_FD`.
    pub device: u32,
    /// Arguments as they were passed, as far as they are needed; the fourth of `DM_DEV_REMOVE` is the number of the
    /// device as it is in the `struct dm_ioctl`.
    pub arguments: [u64; 5],
    /// The caller's working directory.
    pub cwd: PathRef,
    /// The caller's root directory.
    pub root: PathRef,
    /// What the first and the second path begin at; of fsconfig upper and work directory of an overlay (Linux 6.5 on);
    /// of the open of a block device its file.
    pub bases: [PathRef; 2],
    /// Root dentry of what fsconfig was to reconfigure.
    pub reconfigured: u64,
    /// File system type.
    pub fs_name: [u8; FS_NAME],
    /// Bytes of each text in use, without the NUL; 0 for one that is not there.
    pub text_lens: [u32; OPERATION_TEXTS],
    /// Ancestors in use.
    pub ancestor_count: u32,
    /// Nearest first.
    pub ancestors: [Ancestor; ANCESTORS],
    /// Paths, or of mount: target, source, options; of `DM_DEV_REMOVE`: name, uuid.
    pub texts: [[u8; PATH_MAX]; OPERATION_TEXTS],
}

/// Value of the map of watched mounts; its key is the address of the `struct mount`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Watched {
    /// Our own number, never reused; 0 for a mount of a watched file system whose users block nothing.
    pub watch: u64,
    /// `mnt_id`, to tell that the address is still that mount.
    pub mount_id: u32,
    /// Padding.
    pub reserved: u32,
}
