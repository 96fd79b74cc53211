//! The stream of records that the analysis is a function of: what the kernel said, and what was found by looking,
//! in the order in which it became known. Live and replayed streams are the same.

mod decode;
mod detached;
mod header;
mod operation;
mod slow;

use serde::{Deserialize, Serialize};

pub use self::{
    decode::{DecodeError, Raw, RawUmount, decode, of_ledger, process_of},
    detached::{Detached, Object},
    operation::{BLOCK_DEVICE, Freed, RawOperation, Refused},
    slow::{Slow, Stack},
};
use crate::{
    identity::BootClock,
    kernel::Snapshot,
    model::{Container, Process, Target, Text, Tier, WayIn},
    probe::Losses,
};

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first one.
    Start(Start),
    /// An umount2 returned.
    Umount(Box<Umount>),
    /// A file was opened on a watched mount.
    Opened(Box<Opened>),
    /// A file's last reference went.
    Closed(Closed),
    /// A thread came into another mount namespace.
    Entered(Entered),
    /// What a file in the history is called.
    Named(Named),
    /// The references were looked for.
    Snapshot(Box<Sample>),
    /// A target is not mounted any more.
    Gone(Gone),
    /// A system call other than umount2 was refused.
    Refused(Box<Refused>),
    /// A mount was detached and lives on.
    Detached(Box<Detached>),
    /// What kept the target of a refused call is gone, or the last reference of a detached mount went.
    Freed(Freed),
    /// An umount2 takes long.
    Slow(Box<Slow>),
    /// Totals of what was lost so far.
    Lost(Lost),
    /// Nothing happened until then (boot clock, ns).
    Tick {
        /// Boot clock, ns.
        time: u64,
    },
    /// ebusy stops.
    End {
        /// Boot clock, ns.
        time: u64,
    },
}

impl Record {
    /// The names of all types.
    pub const NAMES: [&str; 15] = [
        "start", "umount", "opened", "closed", "entered", "named", "snapshot", "gone", "refused", "detached",
        "freed", "slow", "lost", "tick", "end",
    ];

    /// When it happened, boot clock, ns; `None` of what is no event.
    #[must_use]
    pub fn time(&self) -> Option<u64> {
        match self {
            Self::Start(_) | Self::Named(_) => None,
            Self::Umount(umount) => Some(umount.returned),
            Self::Opened(opened) => Some(opened.time),
            Self::Closed(closed) => Some(closed.time),
            Self::Entered(entered) => Some(entered.time),
            Self::Snapshot(sample) => Some(sample.snapshot.finished),
            Self::Gone(gone) => Some(gone.time),
            Self::Refused(refused) => Some(refused.returned),
            Self::Detached(detached) => Some(detached.looked),
            Self::Freed(freed) => Some(freed.time),
            Self::Slow(slow) => Some(slow.looked),
            Self::Lost(lost) => Some(lost.time),
            Self::Tick { time } | Self::End { time } => Some(*time),
        }
    }

    /// The name of its type.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Umount(_) => "umount",
            Self::Opened(_) => "opened",
            Self::Closed(_) => "closed",
            Self::Entered(_) => "entered",
            Self::Named(_) => "named",
            Self::Snapshot(_) => "snapshot",
            Self::Gone(_) => "gone",
            Self::Refused(_) => "refused",
            Self::Detached(_) => "detached",
            Self::Freed(_) => "freed",
            Self::Slow(_) => "slow",
            Self::Lost(_) => "lost",
            Self::Tick { .. } => "tick",
            Self::End { .. } => "end",
        }
    }
}

/// Where and how the stream was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Version of ebusy.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// The probe tier.
    pub tier: Tier,
    /// Relates the boot clock to wall-clock time.
    pub clock: BootClock,
    /// Every open and every close on a watched mount is in the stream, but for what was lost.
    #[serde(default)]
    pub history: bool,
    /// Names the run among those of a capture; unknown in streams of old.
    #[serde(default)]
    pub run: Option<String>,
}

/// Names a mount within a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MountKey {
    /// Address of the `struct mount`.
    pub address: u64,
    /// `mnt_id`.
    pub id: u32,
    /// `mnt_id_unique`, where the kernel has it.
    pub unique: Option<u64>,
}

impl MountKey {
    /// Whether what was at this address is this mount: `number` is its `mnt_id_unique`, else its `mnt_id`, where that was
    /// seen. Addresses are given away again, often at once.
    #[must_use]
    pub fn is(self, address: u64, number: Option<u64>) -> bool {
        let own = self.unique.unwrap_or(u64::from(self.id));
        self.address == address && number.is_none_or(|number| number == own)
    }
}

/// An umount2 that returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Umount {
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// Boot clock when the count that refused it was read, ns; where the tier sees it.
    #[serde(default)]
    pub checked: Option<u64>,
    /// Boot clock at return, ns.
    pub returned: u64,
    /// 0, or a negative errno.
    pub ret: i64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
    /// On whose account ([`Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "is_host")]
    pub source: u64,
    /// Who called.
    pub caller: Process,
    /// The path as it was passed, where the tier sees it.
    #[serde(default)]
    pub passed: Option<Text>,
    /// The mount; `None` where the path could not be resolved.
    pub mount: Option<MountKey>,
    /// What is known of the target; its path at least.
    pub target: Target,
    /// Whether the user wants to see it.
    pub shown: bool,
    /// It was the caller's own root: the kernel remounts that read-only instead (kernel fact 5).
    #[serde(default)]
    pub remount: bool,
    /// Whether the kernel's busy check ran; `None` where the tier does not see it.
    pub busy_check: Option<bool>,
    /// The last mount that the busy check looked at, and its count.
    pub compared: Option<(u64, i32)>,
}

/// A file that was opened on a watched mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Boot clock, ns.
    pub time: u64,
    /// Address of the `struct file`.
    pub file: u64,
    /// Address of the mount.
    pub mount: u64,
    /// Address of the dentry.
    pub dentry: u64,
    /// Who opened it.
    pub by: Process,
    /// On whose account ([`Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "is_host")]
    pub source: u64,
    /// Descriptor it got, where the tier sees it.
    pub fd: Option<u32>,
    /// Start of the process that opened it, boot clock, ns.
    #[serde(default)]
    pub start: u64,
    /// Hash and length of its name, to tell that the dentry is still the same; 0 for unknown.
    #[serde(default)]
    pub name: u64,
    /// `O_*`.
    #[serde(default)]
    pub flags: u32,
    /// `FMODE_*`.
    #[serde(default)]
    pub mode: u32,
    /// Type and permissions of its inode; 0 for unknown.
    #[serde(default)]
    pub inode_mode: u32,
    /// When it was closed, boot clock, ns: only of what the ledger has.
    #[serde(default)]
    pub closed: Option<u64>,
}

impl Opened {
    /// Whether it is a file that the kernel opened for itself behind another one, which the user opened: the backing
    /// file of an overlay. `FMODE_NOACCOUNT` (include/linux/fs.h, the same from 5.10 to 7.2).
    #[must_use]
    pub fn is_backing(&self) -> bool {
        self.mode & 0x2000_0000 != 0
    }

    /// Whether it is of the file that has this address now; a dentry of 0 is unknown. Addresses come again, and the
    /// tracepoint tier sees neither closes nor opens that are no system call's (of an interpreter, by a ring). The
    /// dentry of an open file stays the same, also where the file is renamed.
    #[must_use]
    pub fn is_of(&self, file: u64, mount: u64, dentry: u64) -> bool {
        let same_dentry = self.dentry == 0 || dentry == 0 || self.dentry == dentry;
        self.file == file && self.mount == mount && same_dentry
    }

    /// References that it holds: overlayfs keeps a second file for each that is regular, unless it was opened with
    /// `O_PATH` (measured on 5.10, 6.1, 6.12 and 7.2).
    #[must_use]
    pub fn refs(&self, overlay: bool) -> u64 {
        const TYPE: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        const PATH_ONLY: u32 = 0o10_000_000;
        let regular = self.inode_mode & TYPE == REGULAR && self.flags & PATH_ONLY == 0;
        1 + u64::from(overlay && regular)
    }

    /// Whether it was opened to be run: `__FMODE_EXEC` (include/linux/fs.h, the same from 5.10 to 7.2).
    #[must_use]
    pub fn is_executed(&self) -> bool {
        self.flags & 0x20 != 0
    }
}

/// The name of a file that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Address of the mount.
    pub mount: u64,
    /// Address of the dentry.
    pub dentry: u64,
    /// Hash and length of the last name.
    pub name: u64,
    /// Path inside the mount, from its root.
    pub path: Text,
    /// It has no name any more.
    pub deleted: bool,
}

/// A file that is no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Boot clock, ns.
    pub time: u64,
    /// Address of the `struct file`.
    pub file: u64,
}

/// A thread that came into another mount namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entered {
    /// Boot clock, ns.
    pub time: u64,
    /// How.
    pub operation: WayIn,
    /// Who.
    pub pid: u32,
    /// Which thread of it; unknown in streams of old.
    #[serde(default)]
    pub tid: Option<u32>,
    /// Start of the process, boot clock, ns; 0 for unknown.
    #[serde(default)]
    pub start: u64,
    /// On whose account ([`Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "is_host")]
    pub source: u64,
    /// Its command name.
    pub comm: Text,
    /// The namespace it is in now.
    pub namespace: u32,
    /// The namespace it was in before, where the tier sees it.
    #[serde(default)]
    pub from: Option<u32>,
    /// The container whose root file system the namespace has.
    #[serde(default)]
    pub container: Option<Box<Container>>,
}

/// A snapshot, and what it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The target.
    pub mount: MountKey,
    /// Return of the refused attempt that it follows, boot clock, ns.
    pub attempt: u64,
    /// On whose account ([`Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "is_host")]
    pub source: u64,
    /// What was found.
    pub snapshot: Snapshot,
    /// What the ledger had of the files on these mounts; of those that were closed only the latest.
    #[serde(default)]
    pub ledger: Vec<Opened>,
}

/// Totals of what was lost so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// When they were read, boot clock, ns.
    pub time: u64,
    /// By probe and reason, without those of single sources.
    pub losses: Losses,
    /// Sources that did more than they have room for, and what was lost of that: of no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Noise>,
}

/// A source that did more than it has room for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noise {
    /// Its number ([`tracer_common::Source`]).
    pub source: u64,
    /// The last of its processes that found no room, as far as it is known.
    pub by: Process,
    /// What was lost, by probe and reason.
    pub losses: Losses,
}

/// Whether something was done by the host's superuser, who has no noise.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_host(source: &u64) -> bool {
    *source == tracer_common::HOST
}

/// A target that is not mounted any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    /// The target.
    pub mount: MountKey,
    /// Boot clock, ns.
    pub time: u64,
}
