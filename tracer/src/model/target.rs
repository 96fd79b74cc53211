//! The mount that somebody wants to unmount, and what the kernel counts on it.

use serde::{Deserialize, Serialize};

use super::{Container, Propagation, Text, Timestamp};

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
    /// Propagation of the *parent*, which decides whether copies elsewhere block.
    pub propagation: Option<Propagation>,
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
    /// What that look could not see: holders there are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
}
