//! What is known of a target before it is looked at.

use super::mount::Mount;

/// What a look at one target knows of it; a look at many mounts knows none of this.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Subject<'g> {
    pub(super) target: Option<&'g Mount>,
    /// The target and its slots.
    pub(super) blocking: &'g [&'g Mount],
    /// Their counts before the look.
    pub(super) counts: &'g [Option<i32>],
    /// Files that the ledger has, read before the look.
    pub(super) ledger: &'g [LedgerFile],
}

/// What the ledger says of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerFile {
    /// Address of the `struct file`.
    pub file: u64,
    /// Address of the mount that it was opened on.
    pub mount: u64,
    /// `mnt_id` of that mount.
    pub mount_id: u32,
    /// Process that opened it.
    pub tgid: u32,
    /// Start of that process, boot clock, ns.
    pub start: u64,
    /// Backing files of an overlay belong to the file that they back.
    pub backing: bool,
}
