//! Owners of references over the life of an incident: when each was there, and what it blocked.

use std::collections::HashMap;

use super::{
    books::{Verdict, balance},
    history::History,
};
use crate::{
    identity::BootClock,
    kernel::{Reference, Snapshot},
    model::{Books, Holder, Kind, Text, Through},
    stream::Closed,
};

/// Holders of one incident that are remembered at the most.
const HOLDERS_MAX: usize = 50_000;

/// What makes two references the same over time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    object: u64,
    mount: u64,
    pid: u32,
    start: u64,
    kind: Kind,
    path: Text,
}

#[derive(Debug, Clone)]
struct Life {
    reference: Reference,
    /// When it began: opened if that was seen, otherwise the attempt after which it was first found.
    since: u64,
    /// Start of the last snapshot that found it, or its end if that was seen.
    until: u64,
    opened: Option<u64>,
    /// Number of the last snapshot that found it.
    seen: u64,
    /// Whether it ever was on a mount that blocks.
    blocked: bool,
}

/// All owners of references of one incident.
#[derive(Debug, Default)]
pub(super) struct Holders {
    lives: HashMap<Key, Life>,
    /// Snapshots so far.
    snapshots: u64,
    /// Holders that had to be left out.
    pub(super) dropped: u64,
    clock: Option<BootClock>,
}

impl Holders {
    pub(super) fn with_clock(clock: BootClock) -> Self {
        Self {
            clock: Some(clock),
            ..Self::default()
        }
    }

    /// Enters a snapshot; `attempt` is the return of the refused attempt before it. Returns its number.
    pub(super) fn add(&mut self, snapshot: &Snapshot, attempt: Option<u64>, history: &History) -> u64 {
        self.snapshots += 1;
        for reference in &snapshot.references {
            let holder = &reference.holder;
            let key = Key {
                object: reference.object,
                mount: reference.mount,
                pid: holder.process.as_ref().map_or(0, |process| process.pid),
                start: reference.start,
                kind: holder.kind,
                path: holder.path.clone(),
            };
            let seen = history.of(reference.object, reference.mount, snapshot.finished);
            let opened = seen.map(|(time, _)| time);
            let mut reference = reference.clone();
            if let Some((_, by)) = seen {
                reference.holder.opened_by = Some(by.clone());
                reference.holder.evidence = vec!["history".to_owned(), "snapshot".to_owned()];
            }
            if let Some(life) = self.lives.get_mut(&key) {
                life.until = snapshot.started;
                life.seen = self.snapshots;
                life.opened = life.opened.or(opened);
                life.reference = reference;
                continue;
            }
            if self.lives.len() >= HOLDERS_MAX {
                self.dropped += 1;
                continue;
            }
            let since = opened.or(attempt).unwrap_or(snapshot.started);
            let (until, seen, blocked) = (snapshot.started, self.snapshots, false);
            self.lives.insert(
                key,
                Life {
                    reference,
                    since,
                    until,
                    opened,
                    seen,
                    blocked,
                },
            );
        }
        self.snapshots
    }

    /// The last reference to a file went: whoever held it held it until then.
    pub(super) fn closed(&mut self, closed: &Closed) {
        for life in self.lives.values_mut() {
            if life.reference.object == closed.file && life.since <= closed.time {
                life.until = life.until.max(closed.time);
            }
        }
    }

    /// Notes which mounts block, so that a holder that goes before the last attempt is still named.
    pub(super) fn note(&mut self, verdict: &Verdict) {
        let last = self.snapshots;
        for life in self.lives.values_mut().filter(|life| life.seen == last) {
            life.blocked |= verdict.blocking.contains(&life.reference.mount);
        }
    }

    /// Number of attempts (their returns, in order) in the life of a holder.
    fn attempts_in(life: &Life, attempts: &[u64]) -> u64 {
        let from = attempts.partition_point(|time| *time < life.since);
        let to = attempts.partition_point(|time| *time <= life.until);
        to.saturating_sub(from) as u64
    }

    /// The books, the holders and the bystanders as of a snapshot and the attempt that it follows. A holder that was
    /// opened only after the attempt returned is none of its holders.
    pub(super) fn settle(
        &self,
        verdict: &Verdict,
        snapshot: u64,
        attempt: Option<u64>,
        attempts: &[u64],
    ) -> (Books, Vec<Holder>, Vec<Holder>) {
        let mut books = verdict.books.clone();
        let (mut holders, mut bystanders) = (Vec::new(), Vec::new());
        let mut explained = 0;
        for life in self.lives.values() {
            let mut holder = life.reference.holder.clone();
            holder.attempts_blocked = Self::attempts_in(life, attempts);
            holder.opened = life.opened.and_then(|time| Some(self.clock?.timestamp(time)));
            let in_time = attempt.is_none_or(|attempt| life.opened.is_none_or(|opened| opened <= attempt));
            let current = life.seen == snapshot;
            if holder.through == Through::PrivateCopy || !life.blocked {
                if current {
                    holder.attempts_blocked = 0;
                    bystanders.push((life.since, holder));
                }
                continue;
            }
            holder.counted = current && in_time && life.reference.mount == verdict.guilty;
            if holder.counted {
                explained += holder.refs;
            }
            // Without attempts (`who`) every one counts that is there now.
            if current && attempt.is_none() || holder.attempts_blocked > 0 {
                holders.push((life.since, holder));
            }
        }
        balance(&mut books, explained);
        (books, order(holders), order(bystanders))
    }
}

/// Those in the books first, then by what they blocked, then by age.
fn order(mut holders: Vec<(u64, Holder)>) -> Vec<Holder> {
    holders.sort_by(|(a_since, a), (b_since, b)| {
        let key = |since: u64, holder: &Holder| {
            let pid = holder.process.as_ref().map_or(0, |process| process.pid);
            (
                !holder.counted,
                u64::MAX - holder.attempts_blocked,
                u64::MAX - holder.refs,
                since,
                pid,
                holder.fd,
            )
        };
        key(*a_since, a)
            .cmp(&key(*b_since, b))
            .then_with(|| a.path.cmp(&b.path))
    });
    holders.into_iter().map(|(_, holder)| holder).collect()
}
