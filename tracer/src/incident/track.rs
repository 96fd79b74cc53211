//! From attempts to incidents and their outcome.

mod umounts;

use std::collections::{BTreeSet, HashMap};

use super::{
    attempts::Attempts,
    books::{Told, came_too_late, judge},
    detached::DetachedMounts,
    history::History,
    noise,
    open::Open,
    operations::Operations,
    room::{Room, Skipped},
    run::{GAVE_UP, Output, Run, TELL},
    slow::SlowUmounts,
    timeline::{Timeline, timeline},
    told::{Again, MNT_DETACH, incident, settle},
    totals::Totals,
};
use crate::{
    identity::BootClock,
    model::{Incident, Outcome, Text},
    stream::{Closed, Gone, Lost, MountKey, Noise, Record, Sample, Start},
};

/// Incidents of one kind that are open at the most.
const OPEN_MAX: usize = 4096;

/// Targets are told apart by the mount; where it could not be resolved, by namespace and path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum TargetKey {
    Mount(MountKey),
    Path(Option<u32>, Text),
}

/// Turns the stream into incidents.
#[derive(Debug)]
pub struct Analyzer {
    start: Start,
    open: HashMap<TargetKey, Open>,
    operations: Operations,
    detached: DetachedMounts,
    slow: SlowUmounts,
    history: History,
    attempts: Attempts,
    /// What joins may cost, and what had no room.
    room: Room,
    cut: u64,
    /// Open incidents by id, and by the files of their holders.
    keys: HashMap<u64, TargetKey>,
    by_file: HashMap<u64, BTreeSet<u64>>,
    /// Before this no tick has anything to tell.
    due: u64,
    next_id: u64,
    lost: u64,
    /// What was lost of single sources.
    noise: Vec<Noise>,
    /// Losses of opens and closes, and the last time when it was known that there were no more.
    lost_history: u64,
    clean: u64,
    /// Times of the incidents that were closed, by their id, where they are kept.
    timelines: Option<HashMap<u64, Timeline>>,
    /// What was seen in all.
    pub totals: Totals,
}

impl Analyzer {
    /// An analysis of a stream that begins so.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self {
            start,
            open: HashMap::new(),
            operations: Operations::default(),
            detached: DetachedMounts::default(),
            slow: SlowUmounts::default(),
            history: History::default(),
            attempts: Attempts::default(),
            room: Room::default(),
            cut: 0,
            keys: HashMap::new(),
            by_file: HashMap::new(),
            due: 0,
            next_id: 1,
            lost: 0,
            noise: Vec::new(),
            lost_history: 0,
            clean: 0,
            timelines: None,
            totals: Totals::default(),
        }
    }

    /// Keeps the times of incidents for [`Self::take_timeline`].
    #[must_use]
    pub fn with_timelines(self) -> Self {
        Self {
            timelines: Some(HashMap::new()),
            ..self
        }
    }

    /// The times of an incident that was closed; only once.
    pub fn take_timeline(&mut self, id: u64) -> Option<Timeline> {
        self.timelines.as_mut()?.remove(&id)
    }

    /// The targets of open incidents.
    pub fn open_targets(&self) -> impl Iterator<Item = MountKey> + '_ {
        self.open.keys().filter_map(|key| match key {
            TargetKey::Mount(mount) => Some(*mount),
            TargetKey::Path(..) => None,
        })
    }

    /// On whose account the last attempt on the target of an open incident was.
    #[must_use]
    pub fn source_of(&self, mount: MountKey) -> Option<u64> {
        let open = self.open.get(&TargetKey::Mount(mount))?;
        Some(open.source)
    }

    /// The target of an open incident that an umount meant by whoever is in that mount namespace: the kernel unmounts only
    /// what is in the caller's own. In another one its address is that of another mount, before or after.
    #[must_use]
    pub fn open_target_at(
        &self,
        (address, number): (u64, Option<u64>),
        namespace: Option<u32>,
    ) -> Option<MountKey> {
        self.open.iter().find_map(|(key, open)| match key {
            TargetKey::Mount(mount) if mount.is(address, number) => {
                let of = open.target.mount_namespace;
                let same = of.is_none() || namespace.is_none() || of == namespace;
                same.then_some(*mount)
            }
            _ => None,
        })
    }

    /// Whether no incident is open.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether an umount of this target has succeeded.
    #[must_use]
    pub fn was_removed(&self, mount: MountKey) -> bool {
        self.open
            .get(&TargetKey::Mount(mount))
            .is_some_and(|open| open.removed.is_some())
    }

    /// The history of opens.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Refused attempts of which only their own incident knows, by source: too many other mounts are refused already.
    #[must_use]
    pub(crate) fn forgotten_attempts(&self) -> &Skipped {
        self.attempts.skipped()
    }

    /// Takes the next record.
    pub fn push(&mut self, record: Record) -> Vec<Output> {
        let mut output = self.take(record);
        for Output::Open(incident) | Output::Closed(incident) in &mut output {
            noise::tell(&self.noise, incident);
        }
        output
    }

    fn take(&mut self, record: Record) -> Vec<Output> {
        self.room.record();
        match record {
            Record::Start(start) => return self.restart(start),
            Record::Umount(umount) => return self.umount(*umount),
            Record::Opened(opened) => self.history.opened(*opened),
            Record::Closed(closed) => {
                self.closed_file(&closed);
                self.history.closed(&closed);
            }
            Record::Entered(entered) => self.history.entered(entered),
            Record::Named(named) => self.history.named(named),
            Record::Snapshot(sample) => self.sample(&sample),
            Record::Gone(gone) => return self.gone(&gone),
            Record::Lost(lost) => self.losses(&lost),
            Record::Refused(refused) => {
                self.totals.operations += 1;
                self.due = 0;
                if self.operations.refused(*refused, self.next_id) {
                    self.next_id += 1;
                    self.totals.incidents += 1;
                }
                let run = self.run();
                return self
                    .operations
                    .beyond(OPEN_MAX, run)
                    .map(closed)
                    .into_iter()
                    .collect();
            }
            Record::Detached(detached) => {
                self.due = 0;
                let clock = self.start.clock;
                self.detached.seen(*detached, &mut self.history, clock);
                let run = self.run();
                return self
                    .detached
                    .beyond(OPEN_MAX, run)
                    .map(closed)
                    .into_iter()
                    .collect();
            }
            Record::Slow(slow) => {
                let run = self.run();
                let (told, new) = self.slow.seen(*slow, &mut self.next_id, run);
                self.totals.slow += u64::from(new);
                let run = self.run();
                let beyond = self.slow.beyond(OPEN_MAX, run).map(closed);
                return told.into_iter().chain(beyond).collect();
            }
            Record::Freed(freed) => {
                let run = self.run();
                let ended = self.detached.freed(&freed, run);
                let ended = ended.or_else(|| self.operations.freed(&freed, run));
                return ended.into_iter().map(closed).collect();
            }
            Record::Tick { time } => return self.tick(time),
            Record::End { time } => return self.end(time),
        }
        Vec::new()
    }

    /// The stream goes on; in a capture of several runs, with what another run saw. In between nobody looked: the
    /// addresses of before mean nothing now.
    fn restart(&mut self, start: Start) -> Vec<Output> {
        let mut output = Vec::new();
        if start.run != self.start.run {
            let last = self.open.values().map(|open| open.last_returned).max();
            output = self.end(last.unwrap_or(0).max(self.clean));
            self.history = History::default();
            self.attempts.clear();
            (self.cut, self.due) = (0, 0);
            (self.lost, self.lost_history, self.clean) = (0, 0, 0);
            self.noise.clear();
        }
        self.start = start;
        output
    }

    fn run(&self) -> Run {
        Run {
            clock: self.start.clock,
            tier: self.start.tier,
            lost: self.lost.saturating_add(self.cut),
        }
    }

    /// A file is gone: whoever held it in an open incident does not any more.
    fn closed_file(&mut self, closed: &Closed) {
        let Some(ids) = self.by_file.get(&closed.file) else {
            return;
        };
        if !self.room.take(ids.len() as u64) {
            self.cut += 1;
            return;
        }
        for key in ids.iter().filter_map(|id| self.keys.get(id)) {
            if let Some(open) = self.open.get_mut(key) {
                open.holders.closed(closed);
            }
        }
    }

    /// Where there are too many, that which was refused the longest ago, of the source that has most, is told as it is:
    /// whoever makes them cannot have any number, and what is refused now stays.
    fn beyond(&mut self) -> Vec<Output> {
        if self.open.len() <= OPEN_MAX {
            return Vec::new();
        }
        let mut by_source: HashMap<u64, usize> = HashMap::new();
        for open in self.open.values() {
            *by_source.entry(open.source).or_default() += 1;
        }
        let most = by_source
            .into_iter()
            .max_by_key(|(source, count)| (*count, *source));
        let oldest = self
            .open
            .iter()
            .filter(|(_, open)| most.is_some_and(|(source, _)| source == open.source))
            .min_by_key(|(_, open)| (open.last_returned, open.id));
        let oldest = oldest.map(|(key, open)| (key.clone(), open.last_returned));
        let output = oldest.and_then(|(key, time)| self.close(&key, Outcome::StillBusy, time));
        output.into_iter().collect()
    }

    /// What the history does not know any more is not taken for proof.
    fn losses(&mut self, Lost { time, losses, noise }: &Lost) {
        if losses.total() != self.lost || *noise != self.noise {
            self.history.enterings.lost(*time);
        }
        self.lost = losses.total();
        self.noise.clone_from(noise);
        let of_others = noise.iter().map(Noise::of_history);
        let lost = of_others.fold(losses.of_history(), u64::saturating_add);
        if lost == self.lost_history {
            return;
        }
        self.lost_history = lost;
        self.history.lost(self.clean, *time);
        for open in self.open.values_mut() {
            open.holders.lost(self.clean);
        }
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(open) = self.open.get_mut(&TargetKey::Mount(sample.mount)) else {
            return;
        };
        for opened in &sample.ledger {
            self.history.recall(opened);
        }
        let last = open.returns.last().copied();
        let late = !open.told.remount && came_too_late(&sample.snapshot);
        let books = !late || open.books.is_none();
        let attempt = Some(sample.attempt);
        let number = open.holders.add(&sample.snapshot, attempt, &self.history, books);
        for file in open.holders.new_files() {
            self.by_file.entry(file).or_default().insert(open.id);
        }
        if !books {
            return;
        }
        // What the kernel told is of the last attempt; a snapshot after an older one is judged by its own counts.
        let told = if last == Some(sample.attempt) {
            open.told
        } else {
            Told {
                remount: open.told.remount,
                ..Told::default()
            }
        };
        let mut verdict = judge(&sample.snapshot, told);
        if late && told.compared.is_none() {
            // The attempt was refused for something, but for how much nobody can say now.
            verdict.books.counted = None;
        }
        verdict.books.sampled_at = Some(self.start.clock.timestamp(sample.snapshot.started));
        open.holders.note(&verdict, &sample.snapshot);
        open.books = Some((verdict, number, sample.attempt));
    }

    fn gone(&mut self, gone: &Gone) -> Vec<Output> {
        let key = TargetKey::Mount(gone.mount);
        let Some(open) = self.open.get(&key) else {
            return Vec::new();
        };
        let outcome = match open.removed {
            Some(flags) if flags & MNT_DETACH != 0 => Outcome::Detached,
            Some(_) => Outcome::Released,
            // Its namespace ended, or its mountpoint was removed.
            None => Outcome::Gone,
        };
        let closed = self.close(&key, outcome, gone.time).into_iter().collect();
        self.attempts.gone(gone.mount);
        closed
    }

    fn tick(&mut self, time: u64) -> Vec<Output> {
        self.clean = time;
        let mut output = Vec::new();
        let cost = self.open.len() + self.operations.len() + self.detached.len();
        if time < self.due || !self.room.take(cost as u64) {
            return output;
        }
        let quiet: Vec<TargetKey> = self
            .open
            .iter()
            .filter(|(_, open)| time.saturating_sub(open.last_returned) >= GAVE_UP)
            .map(|(key, _)| key.clone())
            .collect();
        for key in quiet {
            output.extend(self.close(&key, Outcome::GaveUp, time));
        }
        let run = self.run();
        let (ended, mut told) = self.operations.tick(time, run);
        let detached = self.detached.tick(time, &mut self.next_id, run);
        self.totals.incidents += detached.len() as u64;
        told.extend(detached);
        output.extend(ended.into_iter().map(closed));
        output.extend(told.into_iter().map(|incident| Output::Open(Box::new(incident))));
        let clock = self.start.clock;
        let (tier, lost) = (run.tier, run.lost);
        for (key, open) in &mut self.open {
            if !open.announced && time.saturating_sub(open.first_entered) >= TELL {
                open.announced = true;
                let settled = settle(open);
                let again = again(&self.attempts, key, open, clock);
                output.push(Output::Open(Box::new(incident(
                    open, settled, clock, tier, lost, None, again,
                ))));
            }
        }
        let due = self.open.values().map(|open| {
            let told = if open.announced {
                u64::MAX
            } else {
                open.first_entered.saturating_add(TELL)
            };
            told.min(open.last_returned.saturating_add(GAVE_UP))
        });
        self.due = due
            .chain([self.operations.due(), self.detached.due()])
            .min()
            .unwrap_or(u64::MAX);
        output
    }

    fn end(&mut self, time: u64) -> Vec<Output> {
        let mut keys: Vec<(u64, TargetKey)> = self
            .open
            .iter()
            .map(|(key, open)| (open.id, key.clone()))
            .collect();
        keys.sort();
        let umounts: Vec<Output> = keys
            .into_iter()
            .filter_map(|(_, key)| self.close(&key, Outcome::StillBusy, time))
            .collect();
        let run = self.run();
        let mut others = self.operations.end(time, run);
        others.extend(self.detached.end(time, run));
        others.extend(self.slow.end(time, run));
        umounts
            .into_iter()
            .chain(others.into_iter().map(closed))
            .collect()
    }

    fn close(&mut self, key: &TargetKey, outcome: Outcome, time: u64) -> Option<Output> {
        let open = self.open.remove(key)?;
        self.keys.remove(&open.id);
        for file in open.holders.files() {
            if let Some(ids) = self.by_file.get_mut(&file) {
                ids.remove(&open.id);
                if ids.is_empty() {
                    self.by_file.remove(&file);
                }
            }
        }
        let end = Some((outcome, time));
        let settled = settle(&open);
        let clock = self.start.clock;
        if let Some(timelines) = &mut self.timelines {
            let attempts = open.entries.iter().copied().zip(open.returns.iter().copied());
            let [holders, bystanders] = &settled.lives;
            timelines.insert(open.id, timeline(clock, attempts, holders, bystanders));
        }
        let mut again = again(&self.attempts, key, &open, clock);
        if outcome.is_over() {
            again.retry = None;
        }
        let tier = self.start.tier;
        let lost = self.run().lost;
        let incident = incident(&open, settled, clock, tier, lost, end, again);
        Some(Output::Closed(Box::new(incident)))
    }
}

/// What other incidents on that mount tell of one.
fn again(attempts: &Attempts, key: &TargetKey, open: &Open, clock: BootClock) -> Again {
    let mount = match key {
        TargetKey::Mount(mount) => Some(*mount),
        TargetKey::Path(..) => None,
    };
    Again {
        since: mount.and_then(|mount| attempts.since(mount, open.first_entered, clock)),
        retry: attempts.retry(mount, &open.caller, &open.target, clock),
    }
}

fn closed(incident: Incident) -> Output {
    Output::Closed(Box::new(incident))
}
