//! A reference with its names.

use serde::{Deserialize, Serialize};

use crate::model::Holder;

/// A reference that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Address of the mount that it is on.
    pub mount: u64,
    /// Address of what holds it (`struct file`, `fs_struct`, child mount).
    pub object: u64,
    /// Address of the dentry that it is on; 0 for unknown.
    #[serde(default)]
    pub dentry: u64,
    /// Start of the owner, boot clock, ns: with the pid it names a process for good.
    pub start: u64,
    /// It is a file that is open for writing.
    #[serde(default)]
    pub writes: bool,
    /// What is known of it.
    pub holder: Holder,
}
