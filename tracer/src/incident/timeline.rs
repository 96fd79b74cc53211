//! When what happened in an incident: what a picture of it needs beyond the report.

use crate::{identity::BootClock, model::Timestamp};

/// The times of an incident.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Refused attempts, in order; the first 100,000.
    pub attempts: Vec<Attempt>,
    /// Lives of the holders, in the order of `Incident::holders`.
    pub holders: Vec<Span>,
    /// Lives of the bystanders, in the order of `Incident::bystanders`.
    pub bystanders: Vec<Span>,
}

/// One refused umount2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its entry.
    pub entered: Timestamp,
    /// Its return.
    pub returned: Timestamp,
}

/// The life of a reference, as far as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it began, or was there at the latest.
    pub since: Timestamp,
    /// When it ended, or was last seen.
    pub until: Timestamp,
    /// Whether the begin was seen.
    pub begun: bool,
    /// Whether the end was seen.
    pub ended: bool,
}

/// The same by the boot clock, ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) begun: bool,
    pub(super) ended: bool,
}

impl Life {
    fn span(self, clock: BootClock) -> Span {
        Span {
            since: clock.timestamp(self.since),
            until: clock.timestamp(self.until.max(self.since)),
            begun: self.begun,
            ended: self.ended,
        }
    }
}

/// From the times of the boot clock.
pub(super) fn timeline(
    clock: BootClock,
    attempts: impl Iterator<Item = (u64, u64)>,
    holders: &[Life],
    bystanders: &[Life],
) -> Timeline {
    let spans = |lives: &[Life]| lives.iter().map(|life| life.span(clock)).collect();
    Timeline {
        attempts: attempts
            .map(|(entered, returned)| Attempt {
                entered: clock.timestamp(entered),
                returned: clock.timestamp(returned),
            })
            .collect(),
        holders: spans(holders),
        bystanders: spans(bystanders),
    }
}
