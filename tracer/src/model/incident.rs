//! What is told of an attempt to take a mount away, or of another call that was refused.

use serde::Serialize;

use super::{
    Books, Caller, Fix, Holder, IncidentBody, Outcome, Process, RefusedUmount, Target, Tier, Timestamp,
};

/// All refused attempts on one target, with the books of the last one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Incident {
    /// Its name and version.
    pub schema: String,
    /// Unique within one run of ebusy, or within one capture.
    pub id: u64,
    /// What happened to the target, with the facts that only that has.
    #[serde(flatten)]
    pub body: IncidentBody,
    /// Entry of the first refused attempt.
    pub started: Timestamp,
    /// When the outcome was known; `null` while open.
    pub ended: Option<Timestamp>,
    /// How it ended; `null` while open.
    pub outcome: Option<Outcome>,
    /// `MNT_*` and `UMOUNT_*` names of the last attempt's flags.
    pub flags: Vec<String>,
    /// The caller of the last refused attempt.
    pub caller: Process,
    /// The mount that was to go.
    pub target: Target,
    /// The books of the last refused attempt.
    pub references: Books,
    /// The owners of references that block.
    pub holders: Vec<Holder>,
    /// They use a private copy or a detached clone: they do not block, but keep the file system busy.
    pub bystanders: Vec<Holder>,
    /// The probe tier.
    pub probe: Tier,
    /// Records lost by any probe for any reason since ebusy started, but for those of others that do not touch this; 0
    /// means none.
    pub lost_events: u64,
    /// Who did more than ebusy records of one user or container, and how many of the lost records are theirs, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Noise>,
    /// On whose account it was refused: a number of the stream.
    #[serde(skip)]
    pub source: u64,
    /// What to do, least harmful first; then what does not help.
    pub fixes: Vec<Fix>,
}

/// A user or a container that did more than ebusy records of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Noise {
    /// One of the processes that did it: the last whose doings found no room.
    pub by: Process,
    /// Records of it that are not recorded.
    pub lost: u64,
}

impl Incident {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.incident/1";

    /// When what it says of holders was so: at the last look, else at its end, else at its start.
    #[must_use]
    pub fn seen_at(&self) -> Timestamp {
        let looked = self.references.sampled_at.or(self.ended);
        looked.unwrap_or(self.started)
    }

    /// Number of refused attempts: 0 where nothing was refused.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.body.refusals().map_or(0, |refusals| refusals.attempts)
    }

    /// Everybody who tried, by process.
    #[must_use]
    pub fn callers(&self) -> &[Caller] {
        self.body.refusals().map_or(&[], |refusals| &refusals.callers)
    }

    /// Suspected, not seen by reference.
    #[must_use]
    pub fn candidates(&self) -> &[Holder] {
        match &self.body {
            IncidentBody::Umount(RefusedUmount { candidates, .. }) => candidates,
            _ => &[],
        }
    }
}
