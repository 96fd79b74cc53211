//! What ebusy reports: the objects of its JSON, schema 1, which the text output is rendered from as well.
//!
//! Unknown is `None` (JSON `null`), never a made-up value. Names and paths are bytes in the kernel; see [`Text`].

mod audit;
mod container;
mod entered;
mod fix;
#[macro_use]
mod operation;
#[cfg(test)]
pub(crate) mod samples;
mod slow;
mod stuck;
mod text;
mod time;

use serde::{Deserialize, Serialize};

pub(crate) use self::time::{keep_zone, zone};
pub use self::{
    audit::{
        Audit, CopiedMount, Detached, Group, Keeper, KeptNamespace, Leaked, LeakedPlace, Now, Own, Setting,
        Workload,
    },
    container::{Container, HostMount, Owner},
    entered::Entered,
    fix::{Fix, FixAction},
    operation::{Operation, Reason},
    slow::{Phase, Slow, Wait, WaitsFor},
    stuck::{Retry, RetrySource, Since, SinceSource, earlier},
    text::Text,
    time::Timestamp,
};

/// All refused attempts on one target, with the books of the last one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Incident {
    /// Its name and version.
    pub schema: String,
    /// Unique within one run of ebusy, or within one capture.
    pub id: u64,
    /// What was refused; or `detach` (a mount was detached and lives on), `slow_umount` (an umount2 takes long).
    pub operation: Operation,
    /// Why, if that is not for references to a mount.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Entry of the first refused attempt.
    pub started: Timestamp,
    /// When the outcome was known; `null` while open.
    pub ended: Option<Timestamp>,
    /// How it ended; `null` while open.
    pub outcome: Option<Outcome>,
    /// Number of refused attempts.
    pub attempts: u64,
    /// Runs of attempts with less than a second between them.
    pub bursts: u64,
    /// `MNT_*` and `UMOUNT_*` names of the last attempt's flags.
    pub flags: Vec<String>,
    /// The caller of the last refused attempt.
    pub caller: Process,
    /// Everybody who tried, by process.
    pub callers: Vec<Caller>,
    /// The mount that was to go.
    pub target: Target,
    /// The books of the last refused attempt.
    pub references: Books,
    /// The owners of references that block.
    pub holders: Vec<Holder>,
    /// Suspected, not seen by reference.
    pub candidates: Vec<Holder>,
    /// They use a private copy or a detached clone: they do not block, but keep the file system busy.
    pub bystanders: Vec<Holder>,
    /// The probe tier.
    #[cfg_attr(test, schemars(with = "crate::probe::Tier"))]
    pub probe: String,
    /// Of an umount2 that takes long: where the time goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<Slow>,
    /// Since when its umount has failed, at the latest; left out where nothing before `started` is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// When it is tried again; left out where nobody is known to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Records lost by any probe for any reason since ebusy started, but for those of others that do not touch this; 0
    /// means none.
    pub lost_events: u64,
    /// Who did more than ebusy records of one user or container, and how many of the lost records are theirs, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Noise>,
    /// On whose account it was refused: a number of the stream.
    #[serde(skip)]
    pub source: u64,
    /// What to do, least harmful first; then what does not help.
    pub fixes: Vec<Fix>,
}

/// A user or a container that did more than ebusy records of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Noise {
    /// One of the processes that did it: the last whose doings found no room.
    pub by: Process,
    /// Records of it that are not recorded.
    pub lost: u64,
}

/// Who would block an umount now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Who {
    /// Its name and version.
    pub schema: String,
    /// When it was looked at.
    pub time: Timestamp,
    /// The mount asked about.
    pub target: Target,
    /// Counted after the fact.
    pub references: Books,
    /// The owners of references that would block.
    pub holders: Vec<Holder>,
    /// Suspected, not seen by reference.
    pub candidates: Vec<Holder>,
    /// They use a private copy or a detached clone.
    pub bystanders: Vec<Holder>,
    /// The probe tier.
    #[cfg_attr(test, schemars(with = "crate::probe::Tier"))]
    pub probe: String,
    /// Since when its umount has failed, at the latest; left out where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// What to do, least harmful first; then what does not help.
    pub fixes: Vec<Fix>,
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A later umount of the target succeeded.
    Released,
    /// The target was detached with `MNT_DETACH`.
    Detached,
    /// No attempt for 30 s while still mounted.
    GaveUp,
    /// The mount, or its namespace, is gone without an umount that was seen.
    Gone,
    /// ebusy stopped first.
    StillBusy,
    /// An umount2 that took long returned an error.
    Failed,
}

impl Outcome {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Detached => "detached",
            Self::GaveUp => "gave_up",
            Self::Gone => "gone",
            Self::StillBusy => "still_busy",
            Self::Failed => "failed",
        }
    }

    /// Whether nobody has to try again: the target is not mounted there any more, or what kept it is gone.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Released | Self::Detached | Self::Gone)
    }
}

/// Somebody who tried to unmount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Caller {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// Refused attempts by it.
    pub attempts: u64,
}

/// The mount that was to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Target {
    /// Its mountpoint as its namespace sees it; what the caller passed where that could not be resolved.
    pub path: Text,
    /// The bytes of `path` in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("contentEncoding" = "base64")))]
    pub path_base64: Option<String>,
    /// `struct mount.mnt_id`; reused by the kernel as soon as the mount is gone.
    pub mount_id: Option<u32>,
    /// File system type.
    pub fs_type: Option<String>,
    /// What was mounted (`mnt_devname`).
    pub source: Option<Text>,
    /// `major:minor` of the superblock.
    pub device: Option<String>,
    /// Inode number of its mount namespace.
    pub mount_namespace: Option<u32>,
    /// Propagation of the *parent*, which decides whether copies elsewhere block: `shared`, `slave`, `shared+slave` or `private`.
    pub propagation: Option<String>,
    /// The container that it belongs to.
    pub container: Option<Container>,
}

/// Counted = explained + unexplained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Books {
    /// Extra references, from the kernel's own counter, of the first busy mount that the attempt met.
    pub counted: Option<u64>,
    /// Those that have a holder.
    pub explained: u64,
    /// Those that have none.
    pub unexplained: Option<u64>,
    /// References found in excess of the count (they came or went in between).
    pub overexplained: u64,
    /// Extra references on the mounts that the kernel did not get to look at.
    pub remaining: Option<u64>,
    /// When the references were looked for.
    pub sampled_at: Option<Timestamp>,
    /// Whether the count differed after the snapshot.
    pub changed_during_snapshot: Option<bool>,
}

/// One owner of references as the kernel counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Holder {
    /// The way it holds.
    pub kind: Kind,
    /// Other ways in which the same reference is used.
    pub also: Vec<Kind>,
    /// How many of the kernel's references this is.
    pub refs: u64,
    /// Whose it is; `null` where no process is left (`child_mount`).
    pub process: Option<Process>,
    /// What in the kernel holds it, where that is neither a descriptor nor a directory: `/dev/loop3`, a socket, an
    /// event, a mount source.
    #[serde(default)]
    pub held_by: Option<Text>,
    /// Of a candidate: why it is suspected, and why it could not be seen.
    #[serde(default)]
    pub reason: Option<String>,
    /// File descriptor.
    pub fd: Option<u32>,
    /// Access of the descriptor.
    #[cfg_attr(test, schemars(extend("enum" = ["read", "write", "read+write", "path", null])))]
    pub access: Option<String>,
    /// Other processes that use the same reference.
    pub shared_with: Vec<Sharer>,
    /// Path inside the mount, from its root.
    pub path: Text,
    /// The bytes of `path` in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("contentEncoding" = "base64")))]
    pub path_base64: Option<String>,
    /// The file has no name any more.
    pub deleted: bool,
    /// The path as the holder sees it, from its own root.
    pub seen_as: Option<Text>,
    /// The bytes of `seen_as` in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("contentEncoding" = "base64")))]
    pub seen_as_base64: Option<String>,
    /// The mount that the reference is on.
    pub mount_id: Option<u32>,
    /// The namespace of that mount.
    pub mount_namespace: Option<u32>,
    /// Which mount that is in relation to the target.
    pub through: Through,
    /// Whether the reference is on the mount that `references.counted` speaks of, not on one of `remaining`.
    pub counted: bool,
    /// How the holder's mount receives mounts: `shared`, `slave`, `shared+slave` or `private`.
    pub propagation: Option<String>,
    /// When it was opened, if that was seen.
    pub opened: Option<Timestamp>,
    /// Who opened it, if that was seen.
    pub opened_by: Option<Process>,
    /// How it came to a mount of another mount namespace than it began in; `null` where that is unknown.
    #[serde(default)]
    pub entered: Option<Box<Entered>>,
    /// Refused attempts that it was there for.
    pub attempts_blocked: u64,
    /// How ebusy knows.
    #[cfg_attr(test, schemars(extend("items" = {"enum": ["history", "snapshot"]})))]
    pub evidence: Vec<String>,
    /// Of a `child_mount`: what goes when it is unmounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_along: Option<TakesAlong>,
}

/// Other mounts that have to go, or go, with a mount on top of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TakesAlong {
    /// Mounts below it, which refuse its umount.
    pub below: u64,
    /// Mounts elsewhere that its umount takes away as well, because the target is a peer (`shared`) of the mounts that
    /// they are on.
    pub peers: u64,
}

/// Somebody who shares a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sharer {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// Its descriptor for the same file.
    pub fd: Option<u32>,
}

/// Kinds of reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An open file description in a descriptor table.
    #[default]
    Fd,
    /// A current working directory.
    Cwd,
    /// A root directory.
    Root,
    /// A running executable.
    Exe,
    /// A mapped file.
    Mmap,
    /// A mount on top of it.
    ChildMount,
    /// A mount, somewhere, of the file system that keeps it: a copy in another namespace, an overlay with the same upper
    /// directory.
    Mount,
    /// A UNIX socket bound to a path on it, or accepted by such a one.
    UnixSocket,
    /// An open file that was sent over a UNIX socket and not received yet.
    ScmRights,
    /// A file registered with an io_uring.
    IoUring,
    /// An event that a fanotify group has not read yet.
    Fanotify,
    /// The backing file of a loop device.
    Loop,
    /// An active swap file.
    Swap,
    /// A uprobe on a program or library.
    Uprobe,
    /// An interpreter that binfmt_misc keeps open (flag `F`).
    BinfmtMisc,
    /// The file of process accounting.
    Accounting,
    /// An export of the NFS server.
    NfsExport,
    /// A path lookup or an open under way.
    PathWalk,
    /// A reference that outlives every process: the kernel drops it later, by itself.
    Deferred,
    /// Something else in the kernel.
    Kernel,
}

/// `held_by` of a reference that only a cycle of UNIX sockets in flight has: Linux looks for such cycles when any UNIX
/// socket is closed (kernel fact 15).
pub const UNIX_GARBAGE: &str = "garbage of UNIX sockets";
/// `held_by` of a file that a request of an io_uring under way has.
pub const URING_REQUEST: &str = "a request under way";
/// `held_by` of a file that a request of AIO (`io_submit`) has, which waits.
pub const AIO_REQUEST: &str = "an AIO request under way";

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Fd,
        Self::Cwd,
        Self::Root,
        Self::Exe,
        Self::Mmap,
        Self::ChildMount,
        Self::Mount,
        Self::UnixSocket,
        Self::ScmRights,
        Self::IoUring,
        Self::Fanotify,
        Self::Loop,
        Self::Swap,
        Self::Uprobe,
        Self::BinfmtMisc,
        Self::Accounting,
        Self::NfsExport,
        Self::PathWalk,
        Self::Deferred,
        Self::Kernel,
    ];

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fd => "fd",
            Self::Cwd => "cwd",
            Self::Root => "root",
            Self::Exe => "exe",
            Self::Mmap => "mmap",
            Self::ChildMount => "child_mount",
            Self::Mount => "mount",
            Self::UnixSocket => "unix_socket",
            Self::ScmRights => "scm_rights",
            Self::IoUring => "io_uring",
            Self::Fanotify => "fanotify",
            Self::Loop => "loop",
            Self::Swap => "swap",
            Self::Uprobe => "uprobe",
            Self::BinfmtMisc => "binfmt_misc",
            Self::Accounting => "accounting",
            Self::NfsExport => "nfs_export",
            Self::PathWalk => "path_walk",
            Self::Deferred => "deferred",
            Self::Kernel => "kernel",
        }
    }
}

/// Which mount a reference is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// The mount that was to be removed.
    #[default]
    Target,
    /// A mount in its place under a peer or slave of its parent.
    PropagatedCopy,
    /// Another mount of the same file system: it does not block.
    PrivateCopy,
}

impl Through {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::PropagatedCopy => "propagated_copy",
            Self::PrivateCopy => "private_copy",
        }
    }
}

/// A process, with ids of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Process {
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: Option<u32>,
    /// Command name of the thread.
    pub comm: Text,
    /// Path of the executable as the process sees it.
    pub exe: Option<Text>,
    /// Command line, with `--cmdline` only.
    pub cmdline: Option<Vec<Text>>,
    /// Real user id.
    pub uid: Option<u32>,
    /// When it started.
    pub start_time: Option<Timestamp>,
    /// Nearest first.
    pub parents: Vec<Parent>,
    /// Of a caller that only does what it was asked, such as `umount`: the ancestor that asked. Left out where it speaks
    /// for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Box<Requester>>,
    /// Inode number of its mount namespace.
    pub mount_namespace: Option<u32>,
    /// Inode number of its pid namespace.
    pub pid_namespace: Option<u32>,
    /// systemd unit, for what is no container.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
}

/// An ancestor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Parent {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// When it started, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
}

/// Who asked for what a process does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Requester {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// systemd unit, for what is no container.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
}

impl Incident {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.incident/1";

    /// When what it says of holders was so: at the last look, else at its end, else at its start.
    #[must_use]
    pub fn seen_at(&self) -> Timestamp {
        let looked = self.references.sampled_at.or(self.ended);
        looked.unwrap_or(self.started)
    }
}

impl Who {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.who/1";
}
