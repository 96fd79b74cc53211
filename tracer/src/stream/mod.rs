//! The stream of records that the analysis is a function of: what the kernel said, and what was found by looking,
//! in the order in which it became known. Live and replayed streams are the same.

mod decode;
mod replay;

use serde::{Deserialize, Serialize};

pub use self::{
    decode::{DecodeError, Raw, RawUmount, decode},
    replay::{ReplayError, replay},
};
use crate::{
    identity::BootClock,
    kernel::Snapshot,
    model::{Process, Target, Text},
    probe::{Losses, Tier},
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
    /// The references were looked for.
    Snapshot(Box<Sample>),
    /// A target is not mounted any more.
    Gone(Gone),
    /// Totals of what was lost so far.
    Lost(Losses),
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

/// An umount2 that returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Umount {
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// Boot clock at return, ns.
    pub returned: u64,
    /// 0, or a negative errno.
    pub ret: i64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
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
    /// Whether the kernel's busy check ran; `None` where the tier does not see it.
    pub busy_check: Option<bool>,
    /// The last mount that the busy check looked at, and its count.
    pub compared: Option<(u64, i32)>,
}

/// A file that was opened on a watched mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Descriptor it got, where the tier sees it.
    pub fd: Option<u32>,
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
    /// `setns`, `unshare` or `clone`.
    pub operation: String,
    /// Who.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// The namespace it is in now.
    pub namespace: u32,
}

/// A snapshot, and what it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The target.
    pub mount: MountKey,
    /// Return of the refused attempt that it follows, boot clock, ns.
    pub attempt: u64,
    /// What was found.
    pub snapshot: Snapshot,
}

/// A target that is not mounted any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    /// The target.
    pub mount: MountKey,
    /// Boot clock, ns.
    pub time: u64,
}
