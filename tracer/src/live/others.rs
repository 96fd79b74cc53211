//! What others than the host's superuser do, as far as it costs to look at it: it waits here, for a turn of each source,
//! and what the host does comes first. Whoever makes noise waits for its own noise.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use tracer_common::Room;

use crate::{probe::Losses, stream::Raw};

/// What waits of one source, and of all of them, at the most.
const EACH_MAX: usize = 64;
const ALL_MAX: usize = 4096;
/// How long they are looked at before the host gets its turn again.
const TURN: Duration = Duration::from_millis(10);
/// How many times as long they wait then: they cost a quarter of a core at the most.
const REST: u32 = 3;
/// How long those that are left are looked at in the end.
pub(super) const LAST: Duration = Duration::from_millis(250);

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
}

impl Others {
    /// Since when the first of what waits does so.
    pub(super) fn oldest(&self) -> Option<u64> {
        let first = self.waiting.values().filter_map(VecDeque::front);
        first.map(Raw::time).min()
    }

    fn push(&mut self, source: u64, raw: Raw) {
        let queue = self.waiting.entry(source).or_default();
        if queue.len() >= EACH_MAX || self.len >= ALL_MAX {
            self.lose(source, &raw);
        } else {
            queue.push_back(raw);
            self.len += 1;
        }
    }

    fn lose(&mut self, source: u64, raw: &Raw) {
        let room = match raw {
            Raw::Operation(_) => Room::Operation,
            _ => Room::Umount,
        };
        self.lost.entry(source).or_default().add(room.loss().name(), 1);
    }

    /// What had no room to wait, by source.
    pub(super) fn lost(&self) -> &BTreeMap<u64, Losses> {
        &self.lost
    }

    /// Takes what others did. What costs little is given back at once: their opens may be what refuses an umount of the host.
    pub(super) fn take(&mut self, records: Vec<Raw>) -> Vec<Raw> {
        let mut at_once = Vec::with_capacity(records.len());
        for raw in records {
            let source = match &raw {
                Raw::Umount(umount) if umount.caller.pid != std::process::id() => Some(umount.source),
                Raw::Operation(operation) => Some(operation.source),
                _ => None,
            };
            match source {
                Some(source) => self.push(source, raw),
                None => at_once.push(raw),
            }
        }
        at_once
    }

    /// Whether their turn has come; how long it lasts.
    pub(super) fn turn(&self) -> Option<Duration> {
        self.next
            .is_none_or(|next| Instant::now() >= next)
            .then_some(TURN)
    }

    /// Their turn took so long.
    pub(super) fn rest_after(&mut self, took: Duration) {
        self.next = Some(Instant::now() + took * REST);
    }

    /// Counts what did not get its turn as lost.
    pub(super) fn lose_rest(&mut self) {
        while let Some((source, raw)) = self.next() {
            self.lose(source, &raw);
        }
    }

    /// The next one: of the source after that which had the last turn.
    pub(super) fn next(&mut self) -> Option<(u64, Raw)> {
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
        Some((source, raw))
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
            .map(|(_, raw)| raw.time())
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
