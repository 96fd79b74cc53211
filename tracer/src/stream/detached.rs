//! Mounts that an umount with `MNT_DETACH` took away and that live on, as they are in the stream.

use serde::{Deserialize, Serialize};

use super::{MountKey, Opened};
use crate::model::{Holder, Process, Target};

/// A mount was detached and is there still; again whenever something else is found to keep it. A
/// [`Freed`](super::Freed) of the same cause says that its last reference went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detached {
    /// Our own number; of the numbers of [`Refused`](super::Refused).
    pub cause: u64,
    /// The mount.
    pub mount: MountKey,
    /// Return of the umount2 that detached it, boot clock, ns.
    pub detached: u64,
    /// On whose account ([`super::Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "super::is_host")]
    pub source: u64,
    /// Who called that.
    pub caller: Process,
    /// What it was, and where.
    pub target: Target,
    /// What keeps it.
    pub holders: Vec<Holder>,
    /// The kernel's own count of references, without those of its children; unknown where that cannot be read.
    pub counted: Option<u64>,
    /// When it was looked for, boot clock, ns.
    pub looked: u64,
    /// What could not be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    /// Of each holder, in their order, what the history knows it by. Empty in streams of old.
    #[serde(default)]
    pub objects: Vec<Object>,
    /// What the ledger had of the files that are open on it.
    #[serde(default)]
    pub ledger: Vec<Opened>,
}

/// What a reference is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Address of what holds it: of a file, `struct file`.
    pub address: u64,
    /// Start of its process, boot clock, ns; 0 for unknown.
    pub start: u64,
    /// Address of the dentry that it is on; 0 for unknown.
    #[serde(default)]
    pub dentry: u64,
}
