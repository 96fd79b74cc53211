//! What the parts of the analysis share: the run that they are of, when something is told, and what is told.

use crate::{
    identity::BootClock,
    model::{Incident, Tier},
};

/// Quiet time after which callers have given up, ns.
pub(super) const GAVE_UP: u64 = 30_000_000_000;

/// How long a refusal lasts before it is told, ns.
pub(super) const TELL: u64 = 1_000_000_000;

/// Time between attempts from which on a new burst begins, ns.
const BURST: u64 = 1_000_000_000;

/// What the analysis has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A refusal that has lasted a second.
    Open(Box<Incident>),
    /// An incident with its outcome.
    Closed(Box<Incident>),
}

/// What every incident has of the run that it is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) clock: BootClock,
    pub(super) tier: Tier,
    pub(super) lost: u64,
}

/// Whether an attempt is the first of a burst.
pub(super) fn bursts(attempts: u64, last: u64, now: u64) -> bool {
    attempts == 0 || now.saturating_sub(last) > BURST
}
