//! Attempts on one target that are not over.

use std::collections::BTreeMap;

use super::{
    books::{Told, Verdict},
    holders::Holders,
};
use crate::model::{Process, Target, Text};

/// What is known of them so far.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) first_entered: u64,
    pub(super) last_returned: u64,
    pub(super) attempts: u64,
    /// On whose account the last one was.
    pub(super) source: u64,
    /// Returns of the attempts, in order.
    pub(super) returns: Vec<u64>,
    /// Their entries, where times are kept.
    pub(super) entries: Vec<u64>,
    pub(super) bursts: u64,
    pub(super) flags: u32,
    pub(super) caller: Process,
    pub(super) callers: BTreeMap<u32, (Text, u64)>,
    pub(super) target: Target,
    /// Its address, where it could be resolved.
    pub(super) mount: Option<u64>,
    pub(super) told: Told,
    pub(super) holders: Holders,
    /// Of the last attempt that was followed by a snapshot in time: the verdict, the number of the snapshot, the
    /// return of the attempt.
    pub(super) books: Option<(Verdict, u64, u64)>,
    /// An umount of it succeeded, with these flags.
    pub(super) removed: Option<u32>,
    pub(super) announced: bool,
}
