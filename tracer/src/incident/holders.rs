//! Owners of references over the life of an incident: when each was there, and what it blocked.

use std::collections::{BTreeMap, HashSet, btree_map::Entry};

use super::{
    books::{Verdict, balance},
    history::{History, Passing, StillOpen},
    lives::{Key, Life, Passed},
    timeline,
};
use crate::{
    identity::BootClock,
    kernel::{Reference, Snapshot, access},
    model::{Books, EvidenceSource, Holder, Kind, Target, Through},
    stream::Closed,
};

/// Attempts of one incident that are remembered for the files of the history at the most.
const ATTEMPTS_MAX: usize = 100_000;

/// Snapshots of one incident whose time is remembered at the most; later ones count as not taken.
const SNAPSHOTS_MAX: usize = 10_000;

/// Holders of one incident that are remembered at the most.
const HOLDERS_MAX: usize = 50_000;
/// Lives of one object that its close ends: an open file has one for each process that maps it.
const LIVES_MAX: usize = 4096;

/// All owners of references of one incident.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Those of one object are beside each other.
    lives: BTreeMap<Key, Life>,
    /// Who blocked an attempt by the history alone, by file and the time when it was opened.
    passed: BTreeMap<(u64, u64), Passed>,
    /// Begin and end of the snapshots.
    taken: Vec<(u64, u64)>,
    /// Snapshots with books so far.
    snapshots: u64,
    /// Holders that had to be left out.
    pub(super) dropped: u64,
    clock: Option<BootClock>,
    /// Address of the target, where it is known.
    pub(super) target: Option<u64>,
    /// What the last snapshot with books suspects.
    candidates: Vec<Reference>,
    /// Attempts that something passed: when each was refused, and its return.
    attempts: Vec<(u64, u64)>,
    /// Objects that came since they were taken last.
    new: Vec<u64>,
}

/// The books of an incident, and who is in them.
#[derive(Debug, Default)]
pub struct Settled {
    /// The books.
    pub books: Books,
    /// Who blocks.
    pub holders: Vec<Holder>,
    /// Who is suspected, as long as something is unexplained.
    pub candidates: Vec<Holder>,
    /// Who used a copy that does not block, at any time.
    pub bystanders: Vec<Holder>,
    /// The lives of holders and of bystanders, in their order.
    pub(super) lives: [Vec<timeline::Life>; 2],
}

impl Holders {
    pub(super) fn with_clock(clock: BootClock) -> Self {
        Self {
            clock: Some(clock),
            ..Self::default()
        }
    }

    /// Enters a snapshot; `attempt` is the return of the refused attempt before it. One without `books` came too late
    /// for that: it says who is still there, and takes nothing from the books of the one before. Returns the number of
    /// the last one with books.
    pub(super) fn add(
        &mut self,
        snapshot: &Snapshot,
        attempt: Option<u64>,
        history: &History,
        books: bool,
    ) -> u64 {
        if books {
            self.snapshots += 1;
            self.candidates.clone_from(&snapshot.candidates);
        }
        if self.taken.len() < SNAPSHOTS_MAX {
            self.taken.push((snapshot.started, snapshot.finished));
        }
        for reference in &snapshot.references {
            let key = Key::of(reference);
            let (file, mount, dentry) = (reference.object, reference.mount, reference.dentry);
            let seen = history.of(file, mount, dentry, snapshot.finished);
            let opened = seen.map(|opened| opened.time);
            let mut reference = reference.clone();
            let times = (reference.start, snapshot.finished);
            let enterings = &history.enterings;
            reference.holder.entered = enterings.way_in(&reference.holder, seen, times, self.clock);
            if let Some(opened) = seen {
                reference.holder.opened_by = Some(opened.by.clone());
                reference.holder.evidence = vec![EvidenceSource::History, EvidenceSource::Snapshot];
            }
            if let Some(life) = self.lives.get_mut(&key) {
                life.until = snapshot.started;
                life.ended = false;
                life.opened = life.opened.or(opened);
                if books {
                    life.seen = self.snapshots;
                    life.reference = reference;
                }
                continue;
            }
            if self.lives.len() >= HOLDERS_MAX {
                self.dropped += 1;
                continue;
            }
            let since = opened.or(attempt).unwrap_or(snapshot.started);
            let seen = if books { self.snapshots } else { 0 };
            let (until, blocked) = (snapshot.started, false);
            self.new.push(key.object);
            self.lives.insert(
                key,
                Life {
                    reference,
                    since,
                    until,
                    opened,
                    seen,
                    blocked,
                    ended: false,
                },
            );
        }
        self.snapshots
    }

    /// Takes the objects that came since they were taken last.
    pub(super) fn new_files(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.new)
    }

    /// All objects that were there.
    pub(super) fn files(&self) -> impl Iterator<Item = u64> {
        let passed = self.passed.keys().map(|(file, _)| *file);
        passed.chain(self.lives.keys().map(|key| key.object))
    }

    /// The last reference to a file went: whoever held it held it until then.
    pub(super) fn closed(&mut self, closed: &Closed) {
        let of_file = (closed.file, 0)..=(closed.file, closed.time);
        if let Some((_, passed)) = self.passed.range_mut(of_file).next_back() {
            passed.life.closed.get_or_insert(closed.time);
        }
        for (_, life) in self.lives.range_mut(Key::all_of(closed.file)).take(LIVES_MAX) {
            if life.since <= closed.time {
                life.until = life.until.max(closed.time);
                life.ended = true;
            }
        }
    }

    /// Enters who blocked an attempt by the history: when it was refused, and its return.
    pub(super) fn passing<'h>(
        &mut self,
        lives: impl Iterator<Item = StillOpen<'h>>,
        refused: u64,
        returned: u64,
    ) {
        let at = self.attempts.len();
        if at >= ATTEMPTS_MAX {
            self.dropped += 1;
            return;
        }
        self.attempts.push((refused, returned));
        for life in lives {
            let key = (life.opened.file, life.opened.time);
            let full = self.passed.len() >= HOLDERS_MAX;
            let passed = match self.passed.entry(key) {
                Entry::Vacant(_) if full => {
                    self.dropped += 1;
                    continue;
                }
                Entry::Vacant(free) => {
                    self.new.push(life.opened.file);
                    free.insert(Passed {
                        life: Passing {
                            opened: life.opened.clone(),
                            closed: life.closed,
                            name: life.name.cloned(),
                        },
                        attempts: Vec::new(),
                    })
                }
                Entry::Occupied(known) => known.into_mut(),
            };
            match passed.attempts.last_mut() {
                Some((_, to)) if *to == at => *to += 1,
                _ => passed.attempts.push((at, at + 1)),
            }
            passed.life.closed = passed.life.closed.or(life.closed);
            passed.life.name = passed.life.name.take().or_else(|| life.name.cloned());
        }
    }

    /// Opens or closes were lost after `clean`: what was not over by then proves nothing.
    pub(super) fn lost(&mut self, clean: u64) {
        self.passed
            .retain(|_, passed| passed.life.closed.is_some_and(|closed| closed <= clean));
    }

    /// References of an attempt that are known by the history.
    pub(super) fn known_of(&self, mount: u64, attempt: u64, overlay: bool) -> u64 {
        let of_attempt = |passed: &&Passed| {
            passed.life.opened.mount == mount
                && passed.blocked(&self.attempts).any(|returned| returned == attempt)
        };
        let passed = self.passed.values().filter(of_attempt);
        passed.map(|passed| passed.life.opened.refs(overlay)).sum()
    }

    /// Those of the history that no snapshot can have found: none was taken while they were open. What was open then is
    /// among what was found, under whatever name.
    fn unseen(&self) -> impl Iterator<Item = &Passed> {
        let mut taken = self.taken.clone();
        taken.sort_unstable();
        // Of each snapshot the first end of those that began when it did or later.
        let mut ends: Vec<u64> = taken.iter().map(|(_, to)| *to).collect();
        for index in (1..ends.len()).rev() {
            ends[index - 1] = ends[index - 1].min(ends[index]);
        }
        self.passed.values().filter(move |passed| {
            let Passing { opened, closed, .. } = &passed.life;
            let until = closed.unwrap_or(u64::MAX);
            let from = taken.partition_point(|(from, _)| *from < opened.time);
            let covered = ends.get(from).is_some_and(|to| *to <= until);
            // One that came or went while a snapshot was taken may have been found as well.
            let found = || {
                let mut of_file = self.lives.range(Key::all_of(opened.file)).take(LIVES_MAX);
                of_file.any(|(_, life)| {
                    opened.is_of(life.reference.object, life.reference.mount, life.reference.dentry)
                        && life.opened.is_none_or(|time| time == opened.time)
                })
            };
            !covered && !found()
        })
    }

    /// Attempts (their returns) that the history knows a file to have blocked.
    fn passed_by(&self, life: &Life) -> impl Iterator<Item = u64> {
        let of_file = (life.reference.object, 0)..=(life.reference.object, u64::MAX);
        let Reference {
            object,
            mount,
            dentry,
            ..
        } = life.reference;
        self.passed
            .range(of_file)
            .filter(move |(_, passed)| passed.life.opened.is_of(object, mount, dentry))
            .flat_map(|(_, passed)| passed.blocked(&self.attempts))
    }

    /// A holder that only the history knows.
    fn of_history(&self, passed: &Passed, target: &Target, through: Through) -> Holder {
        let Passing { opened, name, .. } = &passed.life;
        let (path, deleted) = name.clone().unwrap_or_default();
        let overlay = target.fs_type.as_deref() == Some("overlay");
        Holder {
            kind: if opened.is_executed() { Kind::Exe } else { Kind::Fd },
            also: Vec::new(),
            refs: opened.refs(overlay),
            process: Some(opened.by.clone()),
            held_by: None,
            reason: None,
            fd: opened.fd,
            access: (!opened.is_executed()).then(|| access(opened.flags)),
            shared_with: Vec::new(),
            path_base64: path.base64_if_lossy(),
            path,
            deleted,
            seen_as: None,
            seen_as_base64: None,
            mount_id: target.mount_id.filter(|_| through == Through::Target),
            mount_namespace: target.mount_namespace.filter(|_| through == Through::Target),
            through,
            counted: false,
            propagation: None,
            opened: self.clock.map(|clock| clock.timestamp(opened.time)),
            opened_by: Some(opened.by.clone()),
            entered: None,
            attempts_blocked: passed.blocked(&self.attempts).count() as u64,
            evidence: vec![EvidenceSource::History],
            takes_along: None,
        }
    }

    /// Notes which mounts block, so that a holder that goes before the last attempt is still named.
    pub(super) fn note(&mut self, verdict: &Verdict, snapshot: &Snapshot) {
        let last = self.snapshots;
        let blocking: HashSet<u64> = verdict.blocking.iter().copied().collect();
        for reference in &snapshot.references {
            let life = self.lives.get_mut(&Key::of(reference));
            if let Some(life) = life.filter(|life| life.seen == last) {
                life.blocked |= if verdict.writers {
                    life.reference.writes
                } else {
                    blocking.contains(&life.reference.mount)
                };
            }
        }
    }

    /// Number of attempts (their returns, in order) in the life of a holder.
    fn attempts_in(life: &Life, attempts: &[u64]) -> u64 {
        let from = attempts.partition_point(|time| *time < life.since);
        let to = attempts.partition_point(|time| *time <= life.until);
        to.saturating_sub(from) as u64
    }

    /// The books and everybody in them as of a snapshot and the attempt that it follows, or, without a snapshot, as the
    /// history knows them. A holder that was opened only after the attempt returned is none of its holders.
    pub(super) fn settle(
        &self,
        verdict: &Verdict,
        snapshot: Option<u64>,
        attempt: Option<u64>,
        attempts: &[u64],
        target: &Target,
    ) -> Settled {
        let mut books = verdict.books.clone();
        let (mut holders, mut bystanders) = (Vec::new(), Vec::new());
        let mut explained = 0;
        for life in self.lives.values() {
            let mut holder = life.reference.holder.clone();
            // The history may go on where the last snapshot ends.
            let later = self.passed_by(life).filter(|returned| *returned > life.until);
            holder.attempts_blocked = Self::attempts_in(life, attempts) + later.count() as u64;
            holder.opened = life.opened.and_then(|time| Some(self.clock?.timestamp(time)));
            let in_time = attempt.is_none_or(|attempt| life.opened.is_none_or(|opened| opened <= attempt));
            let current = life.seen == snapshot.unwrap_or(self.snapshots);
            let there = match snapshot {
                Some(_) => current && in_time,
                None => self.passed_by(life).any(|returned| Some(returned) == attempt),
            };
            let apart = holder.through == Through::PrivateCopy && !verdict.writers;
            if apart || !life.blocked {
                // Whoever comes to a mount that blocks too late for the books is none.
                if apart || life.seen > 0 {
                    holder.attempts_blocked = 0;
                    bystanders.push((life.times(), holder));
                }
                continue;
            }
            holder.counted = there && life.reference.mount == verdict.guilty && !verdict.writers;
            if holder.counted {
                explained = holder.refs.saturating_add(explained);
            }
            // Without attempts (`who`) every one counts that is there now.
            if current && attempt.is_none() || holder.attempts_blocked > 0 {
                holders.push((life.times(), holder));
            }
        }
        for passed in self.unseen() {
            let on = passed.life.opened.mount;
            if passed.blocked(&self.attempts).next().is_none() {
                continue;
            }
            let through = if Some(on) == self.target {
                Through::Target
            } else {
                Through::PropagatedCopy
            };
            let mut holder = self.of_history(passed, target, through);
            let of_attempt = attempt
                .is_some_and(|attempt| passed.blocked(&self.attempts).any(|returned| returned == attempt));
            holder.counted = of_attempt && on == verdict.guilty;
            if holder.counted {
                explained = holder.refs.saturating_add(explained);
            }
            holders.push((passed.times(&self.attempts), holder));
        }
        balance(&mut books, explained);
        // Where everything is explained, nobody else is suspected.
        let open = books.unexplained != Some(0) || books.remaining != Some(0);
        let blocking: HashSet<u64> = verdict.blocking.iter().copied().collect();
        let suspected = self
            .candidates
            .iter()
            .filter(|candidate| open && blocking.contains(&candidate.mount));
        let (holder_lives, holders) = order(holders);
        let (bystander_lives, bystanders) = order(bystanders);
        Settled {
            books,
            candidates: suspected.map(|candidate| candidate.holder.clone()).collect(),
            holders,
            bystanders,
            lives: [holder_lives, bystander_lives],
        }
    }
}

/// Those in the books first, then by what they blocked, then by age.
fn order(mut holders: Vec<(timeline::Life, Holder)>) -> (Vec<timeline::Life>, Vec<Holder>) {
    holders.sort_by(|(a_life, a), (b_life, b)| {
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
        key(a_life.since, a)
            .cmp(&key(b_life.since, b))
            .then_with(|| a.path.cmp(&b.path))
    });
    holders.into_iter().unzip()
}
