//! How much of a folder may be about others than the host's superuser: whoever makes noise does not flush out what was
//! recorded before. Lines are counted as they are before compression.

use std::collections::{BTreeMap, HashMap};

use tracer_common::HOST;

use crate::stream::{Noise, Record};

/// Parts of the whole folder: what one source may write at once, and in a day; what all of them may write in a day.
const AT_ONCE: u64 = 64;
const A_DAY: u64 = 8;
const ALL_A_DAY: u64 = 2;
const DAY: u64 = 86_400_000_000_000;
/// Sources that are told apart.
const SOURCES_MAX: usize = 4096;

/// What is left of a share.
#[derive(Debug, Clone, Copy)]
struct Share {
    left: u64,
    since: u64,
}

impl Share {
    /// Takes so many bytes, of what has come to be there by now.
    fn take(&mut self, bytes: u64, (most, a_day): (u64, u64), now: u64) -> bool {
        let passed = now.saturating_sub(self.since);
        let more = u128::from(a_day) * u128::from(passed) / u128::from(DAY);
        if more > 0 {
            self.since = now;
            self.left = self
                .left
                .saturating_add(u64::try_from(more).unwrap_or(most))
                .min(most);
        }
        let enough = self.left >= bytes;
        if enough {
            self.left -= bytes;
        }
        enough
    }
}

/// The shares of a folder.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Bytes of the folder; 0 for no end.
    size: u64,
    all: Option<Share>,
    sources: HashMap<u64, Share>,
    /// What was not written, by source and type.
    not_written: BTreeMap<u64, BTreeMap<&'static str, u64>>,
}

impl Shares {
    pub(super) fn of(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// Whether a record of so many bytes is to be written; one that is not is counted.
    pub(super) fn admit(&mut self, record: &Record, bytes: usize, now: u64) -> bool {
        let source = source_of(record);
        if source == HOST || self.size == 0 {
            return true;
        }
        // Those beyond have one share together.
        let known = self.sources.contains_key(&source) || self.sources.len() < SOURCES_MAX;
        let key = if known { source } else { tracer_common::REST };
        let (most, bytes) = (self.size / AT_ONCE, bytes as u64);
        let whole = |most| Share {
            left: most,
            since: now,
        };
        let share = self.sources.entry(key).or_insert_with(|| whole(most));
        let most_of_all = self.size / A_DAY;
        let all = self.all.get_or_insert_with(|| whole(most_of_all));
        if share.take(bytes, (most, self.size / A_DAY), now)
            && all.take(bytes, (most_of_all, self.size / ALL_A_DAY), now)
        {
            return true;
        }
        let kinds = self.not_written.entry(key).or_default();
        *kinds.entry(record.name()).or_default() += 1;
        false
    }

    /// What was lost of single sources, with what of them was not written.
    pub(super) fn with_not_written(&self, noise: &[Noise]) -> Vec<Noise> {
        let mut all = noise.to_vec();
        for (source, kinds) in &self.not_written {
            let index = all.iter().position(|noise| noise.source == *source);
            let index = index.unwrap_or_else(|| {
                all.push(Noise {
                    source: *source,
                    ..Noise::default()
                });
                all.len() - 1
            });
            if let Some(noise) = all.get_mut(index) {
                for (kind, count) in kinds {
                    noise.losses.add(format!("capture: {kind} not written"), *count);
                }
            }
        }
        all
    }

    /// How many records that were.
    pub(super) fn not_written_total(&self) -> u64 {
        self.not_written.values().flat_map(BTreeMap::values).sum()
    }
}

fn source_of(record: &Record) -> u64 {
    match record {
        Record::Umount(umount) => umount.source,
        Record::Opened(opened) => opened.source,
        Record::Entered(entered) => entered.source,
        Record::Snapshot(sample) => sample.source,
        Record::Refused(refused) => refused.source,
        Record::Detached(detached) => detached.source,
        Record::Slow(slow) => slow.source,
        Record::Start(_)
        | Record::Closed(_)
        | Record::Named(_)
        | Record::Gone(_)
        | Record::Freed(_)
        | Record::Lost(_)
        | Record::Tick { .. }
        | Record::End { .. } => HOST,
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, DAY, Shares};
    use crate::{
        model::WayIn,
        stream::{Entered, Record},
    };

    fn by(source: u64) -> Record {
        Record::Entered(Entered {
            time: 0,
            operation: WayIn::Unshare,
            pid: 1,
            tid: None,
            start: 0,
            source,
            comm: "x".into(),
            namespace: 1,
            from: None,
            container: None,
        })
    }

    #[test]
    fn a_source_writes_its_share_and_the_host_what_it_wants() {
        let size = 64 << 20;
        let mut shares = Shares::of(size);
        let each = 1 << 10;
        let mut written = |source, records, now| {
            let admitted = (0..records).filter(|_| shares.admit(&by(source), each, now));
            admitted.count() as u64
        };
        let at_once = size / AT_ONCE / each as u64;
        assert_eq!(written(7, 2 * at_once, 1), at_once);
        assert_eq!(written(0, 3 * at_once, 1), 3 * at_once);
        assert_eq!(written(8, 10, 1), 10, "another source has its own");
        // A tenth of a day brings a tenth of what a day brings, but no more than what may be written at once.
        assert_eq!(
            written(7, 2 * at_once, 1 + DAY / 1000),
            size / 8 / 1000 / each as u64
        );
        assert_eq!(written(7, 2 * at_once, 1 + DAY), at_once);
        let noise = shares.with_not_written(&[]);
        assert_eq!(noise.len(), 1);
        assert_eq!(noise[0].source, 7);
        assert_eq!(noise[0].losses.total(), shares.not_written_total());
    }
}
