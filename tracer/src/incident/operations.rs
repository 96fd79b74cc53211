//! System calls other than umount2 that were refused, or left undone what they were to do: those of one operation on one
//! target are one incident, until what kept the target is gone.

use std::collections::{BTreeMap, HashMap};

use super::{
    run::{GAVE_UP, Run, TELL, bursts},
    told::callers,
};
use crate::{
    advice::advise_incident,
    model::{Books, Holder, Incident, IncidentBody, Outcome, Refusals, RefusedOperation, Text},
    stream::{Freed, Refused},
};

#[derive(Debug)]
struct Open {
    id: u64,
    first: u64,
    attempts: u64,
    bursts: u64,
    callers: BTreeMap<u32, (Text, u64)>,
    last: Refused,
    announced: bool,
}

/// The incidents that are open, by the number of their cause.
#[derive(Debug, Default)]
pub(super) struct Operations {
    open: HashMap<u64, Open>,
}

impl Operations {
    /// A refused call; `id` is for a new incident. Whether it is one.
    pub(super) fn refused(&mut self, refused: Refused, id: u64) -> bool {
        let caller = (refused.caller.pid, refused.caller.comm.clone());
        let mut new = false;
        let open = self.open.entry(refused.cause).or_insert_with(|| {
            new = true;
            Open {
                id,
                first: refused.returned,
                attempts: 0,
                bursts: 0,
                callers: BTreeMap::new(),
                last: refused.clone(),
                announced: false,
            }
        });
        open.bursts += u64::from(bursts(open.attempts, open.last.returned, refused.returned));
        open.attempts += 1;
        open.callers.entry(caller.0).or_insert((caller.1, 0)).1 += 1;
        let known = std::mem::replace(&mut open.last, refused);
        let key = |holder: &Holder| {
            let pid = holder.process.as_ref().map(|process| process.pid);
            (holder.kind, holder.mount_id, holder.path.clone(), holder.fd, pid)
        };
        let mut before = HashMap::new();
        for holder in &known.holders {
            before.entry(key(holder)).or_insert(holder.attempts_blocked);
        }
        if open.attempts > 1 {
            for holder in &mut open.last.holders {
                let blocked = before.get(&key(holder)).copied().unwrap_or(0);
                holder.attempts_blocked = blocked.saturating_add(1);
            }
        }
        new
    }

    /// What kept the target of a call is gone.
    pub(super) fn freed(&mut self, freed: &Freed, run: Run) -> Option<Incident> {
        let open = self.open.remove(&freed.cause)?;
        Some(incident(&open, run, Some((Outcome::Released, freed.time))))
    }

    /// Incidents that nobody asks for any more, with their outcome, and those that have lasted a while.
    pub(super) fn tick(&mut self, time: u64, run: Run) -> (Vec<Incident>, Vec<Incident>) {
        let quiet: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| !open.last.operation.is_pending())
            .filter(|(_, open)| time.saturating_sub(open.last.returned) >= GAVE_UP)
            .map(|(cause, _)| *cause)
            .collect();
        let closed = quiet
            .into_iter()
            .filter_map(|cause| self.open.remove(&cause))
            .map(|open| incident(&open, run, Some((Outcome::GaveUp, time))))
            .collect();
        let mut told = Vec::new();
        for open in self.open.values_mut() {
            if !open.announced && time.saturating_sub(open.first) >= TELL {
                open.announced = true;
                told.push(incident(open, run, None));
            }
        }
        (closed, told)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// When the first of them is to be told or has ended.
    pub(super) fn due(&self) -> u64 {
        let due = self.open.values().map(|open| {
            let told = if open.announced {
                u64::MAX
            } else {
                open.first.saturating_add(TELL)
            };
            let pending = open.last.operation.is_pending();
            let ended = if pending {
                u64::MAX
            } else {
                open.last.returned.saturating_add(GAVE_UP)
            };
            told.min(ended)
        });
        due.min().unwrap_or(u64::MAX)
    }

    /// Where there are too many, that which was refused the longest ago.
    pub(super) fn beyond(&mut self, most: usize, run: Run) -> Option<Incident> {
        if self.open.len() <= most {
            return None;
        }
        let oldest = self
            .open
            .iter()
            .min_by_key(|(_, open)| (open.last.returned, open.id));
        let open = oldest
            .map(|(cause, _)| *cause)
            .and_then(|cause| self.open.remove(&cause))?;
        let end = Some((Outcome::StillBusy, open.last.returned));
        Some(incident(&open, run, end))
    }

    /// All that are open when ebusy stops.
    pub(super) fn end(&mut self, time: u64, run: Run) -> Vec<Incident> {
        let mut open: Vec<Open> = std::mem::take(&mut self.open).into_values().collect();
        open.sort_by_key(|open| open.id);
        open.iter()
            .map(|open| incident(open, run, Some((Outcome::StillBusy, time))))
            .collect()
    }
}

fn incident(open: &Open, run: Run, end: Option<(Outcome, u64)>) -> Incident {
    let last = &open.last;
    let clock = run.clock;
    let mut incident = Incident {
        schema: Incident::SCHEMA.to_owned(),
        id: open.id,
        body: IncidentBody::Operation(RefusedOperation {
            operation: last.operation,
            reason: last.reason,
            refusals: Refusals {
                attempts: open.attempts,
                bursts: open.bursts,
                callers: callers(&open.callers),
            },
        }),
        started: clock.timestamp(open.first),
        ended: end.map(|(_, time)| clock.timestamp(time)),
        outcome: end.map(|(outcome, _)| outcome),
        flags: Vec::new(),
        caller: last.caller.clone(),
        target: last.target.clone(),
        // Nothing is counted: the kernel refuses for one that is there, whatever their number.
        references: Books {
            explained: last
                .holders
                .iter()
                .fold(0, |sum: u64, holder| sum.saturating_add(holder.refs)),
            sampled_at: Some(clock.timestamp(last.looked)),
            ..Books::default()
        },
        fixes: Vec::new(),
        holders: last.holders.clone(),
        bystanders: last.bystanders.clone(),
        probe: run.tier,
        lost_events: run.lost,
        noise: Vec::new(),
        source: last.source,
    };
    advise_incident(&mut incident);
    incident
}
