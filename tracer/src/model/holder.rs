//! Who holds a mount, as it is reported.

use serde::{Deserialize, Serialize};

use super::{Entered, Kind, Process, Propagation, Text, Timestamp};

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
    pub access: Option<Access>,
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
    /// How the holder's mount receives mounts.
    pub propagation: Option<Propagation>,
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
    pub evidence: Vec<EvidenceSource>,
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

named! {
    /// Which mount a reference is on.
    #[derive(Default)]
    Through {
        /// The mount that was to be removed.
        #[default]
        Target => "target",
        /// A mount in its place under a peer or slave of its parent.
        PropagatedCopy => "propagated_copy",
        /// Another mount of the same file system: it does not block.
        PrivateCopy => "private_copy",
    }
}

named! {
    /// What a descriptor may be used for.
    Access {
        /// Reading.
        Read => "read",
        /// Writing.
        Write => "write",
        /// Both.
        ReadWrite => "read+write",
        /// Neither: it only names the file (`O_PATH`).
        Path => "path",
    }
}

named! {
    /// How ebusy knows of a reference.
    EvidenceSource {
        /// Its open was seen, and no close.
        History => "history",
        /// It was found in the kernel's memory.
        Snapshot => "snapshot",
    }
}
