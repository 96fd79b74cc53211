//! What a whole run or capture comes to.

use crate::model::Text;

/// What was seen in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// umount2 calls that returned.
    pub umounts: u64,
    /// Refused with EBUSY.
    pub refused: u64,
    /// Refused, of targets that are not shown.
    pub refused_elsewhere: u64,
    /// Detached with `MNT_DETACH`.
    pub detached: u64,
    /// Other calls that were refused with EBUSY and are shown.
    pub operations: u64,
    /// Incidents shown.
    pub incidents: u64,
    /// umount2 calls that took longer than was asked for, and are shown.
    pub slow: u64,
    /// The longest umount2, ns, and its target.
    pub slowest: Option<(u64, Text)>,
}
