//! What a new segment has to repeat so that it explains itself without those before it.

use std::collections::BTreeMap;

use crate::{
    probe::Losses,
    stream::{MountKey, Record},
};

/// Incidents whose records are repeated at the most.
const INCIDENTS_MAX: usize = 256;
/// Bytes of records that are repeated at the most.
const BYTES_MAX: usize = 16 << 20;
/// An incident that was quiet for longer is over: see `incident::track`.
const QUIET: u64 = 30_000_000_000;
const EBUSY: i64 = -16;

/// What of a record matters to a later segment.
#[derive(Debug)]
pub(super) enum Mark {
    /// A refused attempt on a target, its return, and where its line is in the batch.
    Refused(MountKey, u64, std::ops::Range<usize>),
    /// A snapshot of a target.
    Sample(MountKey, std::ops::Range<usize>),
    /// A target is gone.
    Gone(MountKey),
    /// Totals of what was lost.
    Lost(Losses),
}

impl Mark {
    /// What matters of a record whose line is there.
    pub(super) fn of(record: &Record, line: std::ops::Range<usize>) -> Option<Self> {
        match record {
            Record::Umount(umount) if umount.ret == EBUSY && umount.shown => {
                Some(Self::Refused(umount.mount?, umount.returned, line))
            }
            Record::Snapshot(sample) => Some(Self::Sample(sample.mount, line)),
            Record::Gone(gone) => Some(Self::Gone(gone.mount)),
            Record::Lost(lost) => Some(Self::Lost(lost.losses.clone())),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Incident {
    first: Vec<u8>,
    last: Vec<u8>,
    returned: u64,
    sample: Vec<u8>,
}

/// The open incidents, and what was lost so far.
#[derive(Debug, Default)]
pub(super) struct State {
    incidents: BTreeMap<MountKey, Incident>,
    pub(super) losses: Losses,
}

impl State {
    /// Takes what a batch says.
    pub(super) fn apply(&mut self, marks: Vec<Mark>, lines: &[u8]) {
        let line = |range: std::ops::Range<usize>| lines.get(range).unwrap_or_default().to_vec();
        for mark in marks {
            match mark {
                Mark::Refused(mount, returned, range) => {
                    if self.incidents.len() >= INCIDENTS_MAX && !self.incidents.contains_key(&mount) {
                        self.forget_quiet(returned);
                        if self.incidents.len() >= INCIDENTS_MAX {
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
                    incident.returned = returned;
                }
                Mark::Sample(mount, range) => {
                    if let Some(incident) = self.incidents.get_mut(&mount) {
                        incident.sample = line(range);
                    }
                }
                Mark::Gone(mount) => {
                    self.incidents.remove(&mount);
                }
                Mark::Lost(losses) => self.losses = losses,
            }
        }
    }

    /// The lines that a segment begins with which is begun at `now`, and how many they are.
    pub(super) fn lines(&mut self, now: u64) -> (Vec<u8>, u32) {
        self.forget_quiet(now);
        let (mut lines, mut count) = (Vec::new(), 0);
        for incident in self.incidents.values() {
            for line in [&incident.first, &incident.last, &incident.sample] {
                if !line.is_empty() && lines.len() + line.len() <= BYTES_MAX {
                    lines.extend_from_slice(line);
                    count += 1;
                }
            }
        }
        (lines, count)
    }

    fn forget_quiet(&mut self, now: u64) {
        self.incidents
            .retain(|_, incident| now.saturating_sub(incident.returned) <= QUIET);
    }
}
