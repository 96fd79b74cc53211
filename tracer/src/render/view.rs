//! What a holder is seen in relation to.

use jiff::tz::TimeZone;

use crate::model::{Target, Timestamp};

/// What a holder is seen in relation to.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) target: &'a Target,
    /// Refused attempts; `None` where nothing was attempted.
    pub(super) attempts: Option<u64>,
    /// What durations are counted to.
    pub(super) now: Timestamp,
    pub(super) zone: &'a TimeZone,
}
