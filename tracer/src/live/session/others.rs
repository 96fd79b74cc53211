//! What others than the host's superuser do, as far as it costs to look at it: it waits here, for a turn of each source,
//! and what the host does comes first. Whoever makes noise waits for its own noise.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use tracer_common::{HOST, Loss, Room};

use super::Session;
use crate::{
    identity::boot_nanos,
    incident::Skipped,
    probe::Losses,
    stream::{Noise, Raw, process_of},
    watchdog::{self, Step},
};

/// What waits of one source, and of all of them, at the most.
const EACH_MAX: usize = 64;
const ALL_MAX: usize = 4096;
/// How long they are looked at before the host gets its turn again.
const TURN: Duration = Duration::from_millis(10);
/// How many times as long they wait then: they cost a quarter of a core at the most.
const REST: u32 = 3;
/// How long those that are left are looked at in the end.
const LAST: Duration = Duration::from_millis(250);

/// What waits, by source.
#[derive(Debug, Default)]
pub(super) struct Others {
    waiting: BTreeMap<u64, VecDeque<Raw>>,
    len: usize,
    /// Whose turn it was.
    last: u64,
    /// Not before then.
    next: Option<Instant>,
    /// What had no room to wait.
    lost: BTreeMap<u64, Losses>,
    /// Mount namespaces of which not all mounts are looked at, by user: the most there were.
    crowded: BTreeMap<u32, u64>,
    /// What was told of those that lost something.
    pub(super) told: Vec<Noise>,
}

impl Others {
    /// Since when the first of what waits does so.
    pub(super) fn oldest(&self) -> Option<u64> {
        let first = self.waiting.values().filter_map(VecDeque::front);
        first.map(Raw::time).min()
    }

    /// Users have so many mount namespaces with more mounts than are looked at.
    pub(super) fn crowded_mounts(&mut self, by_user: &BTreeMap<u32, u64>) {
        for (user, namespaces) in by_user {
            let most = self.crowded.entry(*user).or_default();
            *most = (*most).max(*namespaces);
        }
    }

    fn push(&mut self, source: u64, raw: Raw) {
        let queue = self.waiting.entry(source).or_default();
        if queue.len() >= EACH_MAX || self.len >= ALL_MAX {
            let room = match raw {
                Raw::Operation(_) => Room::Operation,
                _ => Room::Umount,
            };
            self.lost.entry(source).or_default().add(room.loss().name(), 1);
        } else {
            queue.push_back(raw);
            self.len += 1;
        }
    }

    /// The next one: of the source after that which had the last turn.
    fn next(&mut self) -> Option<Raw> {
        let source = self.waiting.range(self.last + 1..).next();
        let source = source.or_else(|| self.waiting.first_key_value());
        let source = source.map(|(source, _)| *source)?;
        self.last = source;
        let queue = self.waiting.get_mut(&source)?;
        let raw = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.waiting.remove(&source);
        }
        Some(raw)
    }
}

impl Session {
    /// Takes what others did. What costs little is given back at once: their opens may be what refuses an umount of the host.
    pub(super) fn take_others(&mut self, records: Vec<Raw>) -> Vec<Raw> {
        let mut at_once = Vec::with_capacity(records.len());
        for raw in records {
            let source = match &raw {
                Raw::Umount(umount) if umount.caller.pid != std::process::id() => Some(umount.source),
                Raw::Operation(operation) => Some(operation.source),
                _ => None,
            };
            match source {
                Some(source) => self.others.push(source, raw),
                None => at_once.push(raw),
            }
        }
        at_once
    }

    /// Gives each of the others a turn, for a while. Whether an umount succeeded.
    pub(super) fn turns_of_others(&mut self) -> bool {
        let began = Instant::now();
        if self.others.next.is_some_and(|next| began < next) {
            return false;
        }
        let succeeded = self.turns(began, TURN);
        let now = Instant::now();
        self.others.next = Some(now + (now - began) * REST);
        succeeded
    }

    /// The last turns; what does not get one is counted.
    pub(super) fn last_turns_of_others(&mut self) {
        self.turns(Instant::now(), LAST);
        while let Some(raw) = self.others.next() {
            let source = self.others.last;
            let room = match raw {
                Raw::Operation(_) => Room::Operation,
                _ => Room::Umount,
            };
            self.others
                .lost
                .entry(source)
                .or_default()
                .add(room.loss().name(), 1);
        }
    }

    fn turns(&mut self, began: Instant, most: Duration) -> bool {
        let _step = watchdog::within(Step::Others, &[]);
        let mut succeeded = false;
        while began.elapsed() < most {
            let Some(raw) = self.others.next() else {
                break;
            };
            succeeded |= self.raw(raw);
            self.sample_pending(self.others.last);
        }
        succeeded
    }

    /// What user space had no room for, by source.
    pub(super) fn skipped(&self) -> [(&'static str, &Skipped); 5] {
        [
            ("history: too many open files", &self.analyzer.history().forgotten),
            (
                "earlier attempts: too many mounts",
                self.analyzer.forgotten_attempts(),
            ),
            (
                "mount namespaces entered: too many",
                self.analyzer.history().forgotten_enterings(),
            ),
            (super::detached::SKIPPED, &self.detached.skipped),
            (super::slow::SKIPPED, &self.slow.skipped),
        ]
    }

    /// Who did more than there is room for, and what was lost of that.
    pub(super) fn noise(&mut self) -> Vec<Noise> {
        let mut noise: BTreeMap<u64, Noise> = BTreeMap::new();
        for (source, lost) in &self.others.lost {
            let entry = noise.entry(*source).or_default();
            entry.losses = lost.clone();
        }
        for (what, skipped) in self.skipped() {
            for (source, count) in skipped.iter().filter(|(source, _)| **source != HOST) {
                noise.entry(*source).or_default().losses.add(what, *count);
            }
        }
        for (user, namespaces) in &self.others.crowded {
            let entry = noise.entry(u64::from(*user)).or_default();
            entry.by.uid = Some(*user);
            let what = "mount namespace: more mounts than ebusy looks at";
            entry.losses.add(what, *namespaces);
        }
        for (source, counted) in self.probes.sources.noisy(boot_nanos()) {
            let entry = noise.entry(source).or_default();
            for (loss, lost) in Loss::ALL.iter().zip(counted.lost) {
                entry.losses.add(loss.name(), lost);
            }
            let before = self.others.told.iter().find(|told| told.source == source);
            let known = before.filter(|told| told.by.pid == counted.pid);
            entry.by = if let Some(told) = known {
                told.by.clone()
            } else {
                let kernel = self.host.kernel(&self.probes.reader);
                let process = process_of(&counted);
                self.identities.complete(kernel, &process, counted.start)
            };
        }
        for (source, entry) in &mut noise {
            entry.source = *source;
        }
        noise.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Room;

    use super::{EACH_MAX, Others};
    use crate::stream::Raw;

    fn raw(time: u64) -> Raw {
        Raw::MountChanged { time, source: 1 }
    }

    #[test]
    fn each_source_has_its_turn_and_loses_its_own() {
        let mut others = Others::default();
        for time in 0..EACH_MAX as u64 + 10 {
            others.push(7, raw(time));
        }
        others.push(9, raw(1000));
        let times: Vec<u64> = std::iter::from_fn(|| others.next())
            .map(|raw| raw.time())
            .collect();
        assert_eq!(times[..3], [0, 1000, 1]);
        assert_eq!(times.len(), EACH_MAX + 1);
        assert_eq!(others.oldest(), None);
        let lost: Vec<_> = others
            .lost
            .iter()
            .map(|(source, lost)| (*source, lost.total()))
            .collect();
        assert_eq!(lost, [(7, 10)]);
        assert!(others.lost[&7].0.contains_key(Room::Umount.loss().name()));
    }
}
