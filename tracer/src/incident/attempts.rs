//! The attempts on each mount over all its incidents: since when it is refused, and how its requester comes back.

use std::collections::{HashMap, VecDeque};

use tracer_common::HOST;

use super::{room::Skipped, run::bursts};
use crate::{
    advice::retries_by_rule,
    identity::BootClock,
    model::{Process, Retry, RetrySource, Since, SinceSource, Target, Text, Timestamp},
    stream::{MountKey, Umount},
};

/// Mounts of the host's superuser that are remembered at the most, and of others; and those of one of these.
const MOUNTS_MAX: usize = 4096;
const EACH_MAX: usize = 512;
/// Bursts of one mount that are remembered: the latest.
const BURSTS_MAX: usize = 8;
const SECOND: f64 = 1e9;

#[derive(Debug)]
struct Known {
    source: u64,
    first: u64,
    path: Text,
    requester: u32,
    /// Entry of the first and return of the last attempt of each.
    bursts: VecDeque<(u64, u64)>,
}

/// What was seen of all mounts that were refused and not removed since.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    known: HashMap<MountKey, Known>,
    /// How many are of each source: of those that were refused first.
    by_source: HashMap<u64, usize>,
    /// Attempts on mounts that were too many, by source.
    skipped: Skipped,
}

/// Who asked: an `umount` is another process every time.
fn requester(caller: &Process) -> (u32, &Text) {
    match &caller.requester {
        Some(requester) => (requester.pid, &requester.comm),
        None => (caller.pid, &caller.comm),
    }
}

impl Attempts {
    /// An attempt was refused.
    pub(super) fn refused(&mut self, mount: MountKey, umount: &Umount) {
        if !self.known.contains_key(&mount) {
            let of = |source| self.by_source.get(&source).copied().unwrap_or(0);
            let (own, others) = (of(umount.source), self.known.len() - of(HOST));
            let full = if umount.source == HOST {
                own >= MOUNTS_MAX
            } else {
                own >= EACH_MAX || others >= MOUNTS_MAX
            };
            if full {
                *self.skipped.entry(umount.source).or_default() += 1;
                return;
            }
            *self.by_source.entry(umount.source).or_default() += 1;
        }
        let by = requester(&umount.caller).0;
        let new = |source| Known {
            source,
            first: umount.entered,
            path: umount.target.path.clone(),
            requester: by,
            bursts: VecDeque::new(),
        };
        let known = self.known.entry(mount).or_insert_with(|| new(umount.source));
        // Ids of mounts are given away again.
        if known.path != umount.target.path {
            *known = new(known.source);
        }
        if known.requester != by {
            known.requester = by;
            known.bursts.clear();
        }
        match known.bursts.back_mut() {
            Some((_, last)) if !bursts(1, *last, umount.entered) => *last = umount.returned,
            _ => known.bursts.push_back((umount.entered, umount.returned)),
        }
        if known.bursts.len() > BURSTS_MAX {
            known.bursts.pop_front();
        }
    }

    /// Attempts that are not remembered: the mounts were too many.
    pub(super) fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// It is not mounted any more.
    pub(super) fn gone(&mut self, mount: MountKey) {
        let Some(known) = self.known.remove(&mount) else {
            return;
        };
        if let Some(count) = self.by_source.get_mut(&known.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&known.source);
            }
        }
    }

    /// Another run of ebusy sees other addresses.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.by_source.clear();
    }

    /// Since when it is refused, if that is before the incident that began at `started`.
    pub(super) fn since(&self, mount: MountKey, started: u64, clock: BootClock) -> Option<Since> {
        let first = self.known.get(&mount)?.first;
        (first < started).then(|| Since {
            time: clock.timestamp(first),
            source: SinceSource::Attempt,
        })
    }

    /// When it is tried again: by the pauses that were seen, otherwise by the rule.
    pub(super) fn retry(
        &self,
        mount: Option<MountKey>,
        caller: &Process,
        target: &Target,
        clock: BootClock,
    ) -> Option<Retry> {
        let rule = retries_by_rule(caller, target);
        let (by, comm) = requester(caller);
        let known = mount
            .and_then(|mount| self.known.get(&mount))
            .filter(|known| known.requester == by && known.bursts.len() > 1);
        let Some(known) = known else {
            return rule;
        };
        let pairs = known.bursts.iter().zip(known.bursts.iter().skip(1));
        let pauses: Vec<f64> = pairs
            .map(|((_, end), (begin, _))| begin.saturating_sub(*end) as f64 / SECOND)
            .collect();
        let within = rule.and_then(|rule| rule.within);
        let (_, last) = known.bursts.back()?;
        Some(Retry {
            by: comm.to_str_lossy().into_owned(),
            source: RetrySource::Observed,
            next: Some(after(clock.timestamp(*last), &pauses, within)?),
            pauses,
            within,
        })
    }
}

/// The next pause is as long as the last one, or longer by as much as that was; a back-off at most doubles.
fn after(last: Timestamp, pauses: &[f64], within: Option<u64>) -> Option<Timestamp> {
    let (pause, growth) = match pauses {
        [.., before, pause] if *before > 0.0 => (*pause, (pause / before).clamp(1.0, 2.0)),
        [.., pause] => (*pause, 1.0),
        [] => return None,
    };
    let next = within.map_or(pause * growth, |within| (pause * growth).min(within as f64));
    let nanos = last.as_nanos().checked_add((next * SECOND) as i64)?;
    Some(Timestamp::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use tracer_common::HOST;

    use super::{Attempts, EACH_MAX, MOUNTS_MAX};
    use crate::{
        identity::BootClock,
        model::{Process, Requester, Retry, RetrySource, Target},
        stream::{MountKey, Umount},
    };

    const S: u64 = 1_000_000_000;
    const CLOCK: BootClock = BootClock { offset_nanos: 0 };

    fn key(id: u32) -> MountKey {
        MountKey {
            address: u64::from(id),
            id,
            unique: None,
        }
    }

    fn caller(pid: u32, requester: Option<u32>) -> Process {
        Process {
            pid,
            comm: "umount".into(),
            requester: requester.map(|pid| {
                Box::new(Requester {
                    pid,
                    comm: "kubelet".into(),
                    ..Requester::default()
                })
            }),
            ..Process::default()
        }
    }

    fn umount(entered: u64, caller: Process, path: &str) -> Umount {
        Umount {
            source: 0,
            entered,
            checked: None,
            returned: entered + 1,
            ret: -16,
            flags: 0,
            caller,
            passed: None,
            mount: None,
            target: Target {
                path: path.into(),
                ..Target::default()
            },
            shown: true,
            remount: false,
            busy_check: None,
            compared: None,
        }
    }

    fn retry(of: &Attempts, by: &Process) -> Option<Retry> {
        of.retry(Some(key(1)), by, &Target::default(), CLOCK)
    }

    fn next(of: &Attempts, by: &Process) -> u64 {
        let retry = retry(of, by).unwrap();
        assert_eq!(retry.source, RetrySource::Observed);
        retry.next.unwrap().as_nanos() as u64
    }

    #[test]
    fn who_comes_back_is_expected_after_pauses_like_those_before() {
        let mut of = Attempts::default();
        // Two attempts of one burst, by umounts that the same kubelet runs.
        for (pid, time) in [(10, S), (11, S + S / 2)] {
            of.refused(key(1), &umount(time, caller(pid, Some(5)), "/a"));
            assert_eq!(retry(&of, &caller(pid, Some(5))), None);
        }
        let by = caller(12, Some(5));
        of.refused(key(1), &umount(3 * S + S / 2, by.clone(), "/a"));
        let told = retry(&of, &by).unwrap();
        assert_eq!((told.by.as_str(), told.pauses.len()), ("kubelet", 1));
        assert_eq!((next(&of, &by) + S / 20) / (S / 10), 55, "one pause of 2 s");
        of.refused(key(1), &umount(7 * S + S / 2, by.clone(), "/a"));
        assert_eq!((next(&of, &by) + S / 20) / (S / 10), 155, "it doubles");
        for index in 1..20 {
            of.refused(key(1), &umount(10 * index * S, by.clone(), "/a"));
        }
        let told = retry(&of, &by).unwrap();
        assert_eq!((told.pauses.len(), (next(&of, &by) + S / 20) / S), (7, 200));
        // Another one who tries has no pauses yet.
        let other = caller(77, None);
        assert_eq!(retry(&of, &other), None);
        of.refused(key(1), &umount(300 * S, other.clone(), "/a"));
        assert_eq!(retry(&of, &other), None);
    }

    #[test]
    fn since_the_first_attempt_on_that_mount() {
        let mut of = Attempts::default();
        of.refused(key(1), &umount(S, caller(10, None), "/a"));
        assert_eq!(of.since(key(1), S, CLOCK), None, "the incident began with it");
        let since = of.since(key(1), 40 * S, CLOCK).unwrap();
        assert_eq!(since.time.as_nanos() as u64, S);
        // The same numbers of another mount.
        of.refused(key(1), &umount(50 * S, caller(10, None), "/b"));
        assert_eq!(of.since(key(1), 50 * S, CLOCK), None);
        of.gone(key(1));
        assert_eq!(of.since(key(1), 60 * S, CLOCK), None);
        for id in 0..2 * MOUNTS_MAX as u32 {
            of.refused(key(id), &umount(S, caller(10, None), "/a"));
        }
        assert_eq!(of.known.len(), MOUNTS_MAX);
        assert_eq!(of.skipped().get(&HOST), Some(&(MOUNTS_MAX as u64)));
        for id in 0..2 * EACH_MAX as u32 {
            let source = 7;
            let umount = umount(S, caller(10, None), "/a");
            of.refused(key(id + (1 << 20)), &Umount { source, ..umount });
        }
        assert_eq!(of.known.len(), MOUNTS_MAX + EACH_MAX);
        assert_eq!(of.skipped().get(&7), Some(&(EACH_MAX as u64)));
        of.clear();
        assert!(of.known.is_empty());
    }
}
