//! What a new segment has to repeat so that it explains itself without those before it.

use std::collections::BTreeMap;

use crate::{
    incident::has_room,
    probe::Losses,
    stream::{MountKey, Noise, Record},
};

/// Incidents whose records are repeated at the most.
const INCIDENTS_MAX: usize = 256;
/// Detached mounts, and refused operations, whose records are repeated at the most, each. Of more, those that came first
/// are: the records of later ones are in later segments, which stay longer.
const CAUSES_MAX: usize = 1024;
/// Bytes of records that are repeated at the most.
const BYTES_MAX: usize = 16 << 20;
/// An incident that was quiet for longer is over: see `incident::track`.
const QUIET: u64 = 30_000_000_000;
const EBUSY: i64 = -16;

/// What of a record matters to a later segment.
#[derive(Debug)]
pub(super) enum Mark {
    /// A refused attempt on a target, its return and source, and where its line is in the batch.
    Refused(MountKey, (u64, u64), std::ops::Range<usize>),
    /// A snapshot of a target.
    Sample(MountKey, std::ops::Range<usize>),
    /// A target is gone.
    Gone(MountKey),
    /// A mount was detached and lives on, by the number of its cause; whether somebody was found to keep it.
    Detached(u64, bool, std::ops::Range<usize>),
    /// A system call other than umount2 was refused, by the number of its cause, and when it returned; `None` if it is to
    /// be kept until it is over.
    Operation(u64, Option<u64>, std::ops::Range<usize>),
    /// What a cause was is gone.
    Freed(u64),
    /// Totals of what was lost.
    Lost(Losses, Vec<Noise>),
}

impl Mark {
    /// What matters of a record whose line is there.
    pub(super) fn of(record: &Record, line: std::ops::Range<usize>) -> Option<Self> {
        match record {
            Record::Umount(umount) if umount.ret == EBUSY && umount.shown => Some(Self::Refused(
                umount.mount?,
                (umount.returned, umount.source),
                line,
            )),
            Record::Snapshot(sample) => Some(Self::Sample(sample.mount, line)),
            Record::Gone(gone) => Some(Self::Gone(gone.mount)),
            Record::Detached(detached) => {
                Some(Self::Detached(detached.cause, !detached.holders.is_empty(), line))
            }
            Record::Refused(refused) => {
                let quiet = !refused.operation.is_pending();
                let returned = quiet.then_some(refused.returned);
                Some(Self::Operation(refused.cause, returned, line))
            }
            Record::Freed(freed) => Some(Self::Freed(freed.cause)),
            Record::Lost(lost) => Some(Self::Lost(lost.losses.clone(), lost.noise.clone())),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Incident {
    first: Vec<u8>,
    last: Vec<u8>,
    returned: u64,
    source: u64,
    sample: Vec<u8>,
}

/// A detached mount: it may live on for weeks, and is told when its last reference goes.
#[derive(Debug, Default)]
struct Detached {
    /// The last record with a holder: it says who had the last reference, when nobody was left.
    kept: Vec<u8>,
    /// The last record, where that is another one.
    last: Vec<u8>,
}

/// A refused operation.
#[derive(Debug, Default)]
struct Operation {
    first: Vec<u8>,
    last: Vec<u8>,
    returned: Option<u64>,
}

/// The open incidents, and what was lost so far.
#[derive(Debug, Default)]
pub(super) struct State {
    incidents: BTreeMap<MountKey, Incident>,
    detached: BTreeMap<u64, Detached>,
    operations: BTreeMap<u64, Operation>,
    pub(super) losses: Losses,
    pub(super) noise: Vec<Noise>,
}

impl State {
    /// Takes what a batch says.
    pub(super) fn apply(&mut self, marks: Vec<Mark>, lines: &[u8]) {
        let line = |range: std::ops::Range<usize>| lines.get(range).unwrap_or_default().to_vec();
        for mark in marks {
            match mark {
                Mark::Refused(mount, (returned, source), range) => {
                    if !self.incidents.contains_key(&mount) && !self.has_room(source) {
                        self.forget_quiet(returned);
                        if !self.has_room(source) {
                            continue;
                        }
                    }
                    let incident = self.incidents.entry(mount).or_default();
                    if returned.saturating_sub(incident.returned) > QUIET {
                        *incident = Incident::default();
                    }
                    let line = line(range);
                    if incident.first.is_empty() {
                        incident.first = line;
                    } else {
                        incident.last = line;
                    }
                    (incident.returned, incident.source) = (returned, source);
                }
                Mark::Sample(mount, range) => {
                    if let Some(incident) = self.incidents.get_mut(&mount) {
                        incident.sample = line(range);
                    }
                }
                Mark::Gone(mount) => {
                    self.incidents.remove(&mount);
                }
                Mark::Detached(cause, has_holders, range) => {
                    let Some(detached) = room(&mut self.detached, cause) else {
                        continue;
                    };
                    detached.last = if has_holders {
                        detached.kept = line(range);
                        Vec::new()
                    } else {
                        line(range)
                    };
                }
                Mark::Operation(cause, returned, range) => {
                    let Some(operation) = room(&mut self.operations, cause) else {
                        continue;
                    };
                    operation.returned = returned;
                    if operation.first.is_empty() {
                        operation.first = line(range);
                    } else {
                        operation.last = line(range);
                    }
                }
                Mark::Freed(cause) => {
                    self.detached.remove(&cause);
                    self.operations.remove(&cause);
                }
                Mark::Lost(losses, noise) => (self.losses, self.noise) = (losses, noise),
            }
        }
    }

    /// The lines that a segment begins with which is begun at `now`, and how many they are.
    pub(super) fn lines(&mut self, now: u64) -> (Vec<u8>, u32) {
        self.forget_quiet(now);
        let (mut lines, mut count) = (Vec::new(), 0);
        let umounts = self.incidents.values();
        let umounts = umounts.flat_map(|incident| [&incident.first, &incident.last, &incident.sample]);
        let detached = self.detached.values();
        let detached = detached.flat_map(|detached| [&detached.kept, &detached.last]);
        let operations = self.operations.values();
        let operations = operations.flat_map(|operation| [&operation.first, &operation.last]);
        for line in detached.chain(operations).chain(umounts) {
            if !line.is_empty() && lines.len() + line.len() <= BYTES_MAX {
                lines.extend_from_slice(line);
                count += 1;
            }
        }
        (lines, count)
    }

    fn has_room(&self, source: u64) -> bool {
        let there = self.incidents.values().map(|incident| incident.source);
        has_room(there, source, INCIDENTS_MAX)
    }

    fn forget_quiet(&mut self, now: u64) {
        self.incidents
            .retain(|_, incident| now.saturating_sub(incident.returned) <= QUIET);
        self.operations.retain(|_, operation| {
            operation
                .returned
                .is_none_or(|returned| now.saturating_sub(returned) <= QUIET)
        });
    }
}

/// What is kept of a cause, if there is room for it.
fn room<T: Default>(of: &mut BTreeMap<u64, T>, cause: u64) -> Option<&mut T> {
    if of.len() >= CAUSES_MAX && !of.contains_key(&cause) {
        return None;
    }
    Some(of.entry(cause).or_default())
}
