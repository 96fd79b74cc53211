//! From attempts to incidents and their outcome.

use std::collections::{BTreeMap, HashMap};

use super::{
    books::{Told, Verdict, came_too_late, judge},
    history::History,
    holders::Holders,
};
use crate::{
    identity::BootClock,
    model::{Books, Caller, Incident, Outcome, Process, Target, Text},
    render::advise,
    stream::{Gone, MountKey, Record, Sample, Start, Umount},
};

/// Quiet time after which callers have given up, ns.
const GAVE_UP: u64 = 30_000_000_000;
/// Time between attempts from which on a new burst begins, ns.
const BURST: u64 = 1_000_000_000;
/// Attempts of one incident whose times are kept.
const ATTEMPTS_MAX: usize = 100_000;
/// How long a refusal lasts before it is told, ns.
const TELL: u64 = 1_000_000_000;

const EBUSY: i64 = -16;
const MNT_DETACH: u32 = 2;

/// What the analysis has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A refusal that has lasted a second.
    Open(Box<Incident>),
    /// An incident with its outcome.
    Closed(Box<Incident>),
}

/// What was seen in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// umount2 calls that returned.
    pub umounts: u64,
    /// Refused with EBUSY.
    pub refused: u64,
    /// Refused, of targets that are not shown.
    pub refused_elsewhere: u64,
    /// Detached with `MNT_DETACH`.
    pub detached: u64,
    /// Incidents shown.
    pub incidents: u64,
    /// The longest umount2, ns, and its target.
    pub slowest: Option<(u64, Text)>,
}

/// Targets are told apart by the mount; where it could not be resolved, by namespace and path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum TargetKey {
    Mount(MountKey),
    Path(Option<u32>, Text),
}

#[derive(Debug)]
struct Open {
    id: u64,
    first_entered: u64,
    last_returned: u64,
    attempts: u64,
    /// Returns of the attempts, in order.
    returns: Vec<u64>,
    bursts: u64,
    flags: u32,
    caller: Process,
    callers: BTreeMap<u32, (Text, u64)>,
    target: Target,
    told: Told,
    holders: Holders,
    /// Of the last attempt that was followed by a snapshot in time: the verdict, the number of the snapshot, the
    /// return of the attempt.
    books: Option<(Verdict, u64, u64)>,
    /// An umount of it succeeded, with these flags.
    removed: Option<u32>,
    announced: bool,
}

/// Turns the stream into incidents.
#[derive(Debug)]
pub struct Analyzer {
    start: Start,
    open: HashMap<TargetKey, Open>,
    history: History,
    next_id: u64,
    lost: u64,
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
            history: History::default(),
            next_id: 1,
            lost: 0,
            totals: Totals::default(),
        }
    }

    /// The targets of open incidents.
    pub fn open_targets(&self) -> impl Iterator<Item = MountKey> + '_ {
        self.open.keys().filter_map(|key| match key {
            TargetKey::Mount(mount) => Some(*mount),
            TargetKey::Path(..) => None,
        })
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

    /// Takes the next record.
    pub fn push(&mut self, record: Record) -> Vec<Output> {
        match record {
            Record::Start(start) => self.start = start,
            Record::Umount(umount) => return self.umount(*umount),
            Record::Opened(opened) => self.history.opened(*opened),
            Record::Closed(closed) => {
                for open in self.open.values_mut() {
                    open.holders.closed(&closed);
                }
                self.history.closed(&closed);
            }
            Record::Entered(_) => {}
            Record::Snapshot(sample) => self.sample(&sample),
            Record::Gone(gone) => return self.gone(&gone),
            Record::Lost(losses) => self.lost = losses.total(),
            Record::Tick { time } => return self.tick(time),
            Record::End { time } => return self.end(time),
        }
        Vec::new()
    }

    fn umount(&mut self, umount: Umount) -> Vec<Output> {
        let took = umount.returned.saturating_sub(umount.entered);
        self.totals.umounts += 1;
        if self
            .totals
            .slowest
            .as_ref()
            .is_none_or(|(slowest, _)| took > *slowest)
        {
            self.totals.slowest = Some((took, umount.target.path.clone()));
        }
        if umount.ret == EBUSY {
            self.totals.refused += 1;
            if umount.shown {
                self.refused(umount);
            } else {
                self.totals.refused_elsewhere += 1;
            }
            return Vec::new();
        }
        if umount.ret == 0 {
            self.totals.detached += u64::from(umount.flags & MNT_DETACH != 0);
            return self.succeeded(&umount);
        }
        Vec::new()
    }

    /// The incident that a refusal belongs to. Where one attempt could be resolved and another could not (the mount was
    /// gone when it was looked for), path and namespace say that it is the same.
    fn key_of(&mut self, umount: &Umount) -> TargetKey {
        let path = TargetKey::Path(umount.caller.mount_namespace, umount.target.path.clone());
        let Some(mount) = umount.mount else {
            let same = self.open.iter().find(|(_, open)| {
                open.removed.is_none()
                    && open.target.path == umount.target.path
                    && open.caller.mount_namespace == umount.caller.mount_namespace
            });
            return same.map_or(path, |(key, _)| key.clone());
        };
        let key = TargetKey::Mount(mount);
        if !self.open.contains_key(&key)
            && let Some(open) = self.open.remove(&path)
        {
            self.open.insert(key.clone(), open);
        }
        key
    }

    fn refused(&mut self, umount: Umount) {
        let key = self.key_of(&umount);
        let clock = self.start.clock;
        let next_id = &mut self.next_id;
        let incidents = &mut self.totals.incidents;
        let open = self.open.entry(key).or_insert_with(|| {
            let id = *next_id;
            *next_id += 1;
            *incidents += 1;
            Open {
                id,
                first_entered: umount.entered,
                last_returned: 0,
                attempts: 0,
                returns: Vec::new(),
                bursts: 0,
                flags: 0,
                caller: Process::default(),
                callers: BTreeMap::new(),
                target: umount.target.clone(),
                told: Told::default(),
                holders: Holders::with_clock(clock),
                books: None,
                removed: None,
                announced: false,
            }
        });
        if open.attempts == 0 || umount.entered.saturating_sub(open.last_returned) > BURST {
            open.bursts += 1;
        }
        open.attempts += 1;
        if open.returns.len() < ATTEMPTS_MAX {
            open.returns.push(umount.returned);
        }
        open.last_returned = umount.returned;
        open.flags = umount.flags;
        open.told = Told {
            busy_check: umount.busy_check,
            compared: umount.compared,
        };
        let caller = open
            .callers
            .entry(umount.caller.pid)
            .or_insert_with(|| (umount.caller.comm.clone(), 0));
        caller.1 += 1;
        open.caller = umount.caller;
        open.target = umount.target;
    }

    /// An umount succeeded: it may have been the target of an incident, which [`Record::Gone`] will say.
    fn succeeded(&mut self, umount: &Umount) -> Vec<Output> {
        for (key, open) in &mut self.open {
            let same = match key {
                TargetKey::Mount(mount) if umount.mount.is_some() => umount.mount == Some(*mount),
                _ => {
                    open.target.path == umount.target.path
                        && open.caller.mount_namespace == umount.caller.mount_namespace
                }
            };
            if same {
                open.removed = Some(umount.flags);
            }
        }
        // Where the mount could not be told, the path is all there is.
        let closed: Vec<TargetKey> = self
            .open
            .iter()
            .filter(|(key, open)| matches!(key, TargetKey::Path(..)) && open.removed.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        let outcome = if umount.flags & MNT_DETACH == 0 {
            Outcome::Released
        } else {
            Outcome::Detached
        };
        closed
            .into_iter()
            .filter_map(|key| self.close(&key, outcome, umount.returned))
            .collect()
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(open) = self.open.get_mut(&TargetKey::Mount(sample.mount)) else {
            return;
        };
        let last = open.returns.last().copied();
        let number = open
            .holders
            .add(&sample.snapshot, Some(sample.attempt), &self.history);
        let late = came_too_late(&sample.snapshot);
        if late && open.books.is_some() {
            return;
        }
        // What the kernel told is of the last attempt; a snapshot after an older one is judged by its own counts.
        let told = if last == Some(sample.attempt) {
            open.told
        } else {
            Told::default()
        };
        let mut verdict = judge(&sample.snapshot, told);
        if late && told.compared.is_none() {
            // The attempt was refused for something, but for how much nobody can say now.
            verdict.books.counted = None;
        }
        verdict.books.sampled_at = Some(self.start.clock.timestamp(sample.snapshot.started));
        open.holders.note(&verdict);
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
        self.close(&key, outcome, gone.time).into_iter().collect()
    }

    fn tick(&mut self, time: u64) -> Vec<Output> {
        let mut output = Vec::new();
        let quiet: Vec<TargetKey> = self
            .open
            .iter()
            .filter(|(_, open)| time.saturating_sub(open.last_returned) >= GAVE_UP)
            .map(|(key, _)| key.clone())
            .collect();
        for key in quiet {
            output.extend(self.close(&key, Outcome::GaveUp, time));
        }
        let clock = self.start.clock;
        let (tier, lost) = (self.start.tier.name(), self.lost);
        for open in self.open.values_mut() {
            if !open.announced && time.saturating_sub(open.first_entered) >= TELL {
                open.announced = true;
                output.push(Output::Open(Box::new(incident(open, clock, tier, lost, None))));
            }
        }
        output
    }

    fn end(&mut self, time: u64) -> Vec<Output> {
        let mut keys: Vec<(u64, TargetKey)> = self
            .open
            .iter()
            .map(|(key, open)| (open.id, key.clone()))
            .collect();
        keys.sort();
        keys.into_iter()
            .filter_map(|(_, key)| self.close(&key, Outcome::StillBusy, time))
            .collect()
    }

    fn close(&mut self, key: &TargetKey, outcome: Outcome, time: u64) -> Option<Output> {
        let open = self.open.remove(key)?;
        let end = Some((outcome, time));
        let incident = incident(&open, self.start.clock, self.start.tier.name(), self.lost, end);
        Some(Output::Closed(Box::new(incident)))
    }
}

fn flag_names(flags: u32) -> Vec<String> {
    // include/linux/fs.h
    let names = [
        (1, "MNT_FORCE"),
        (2, "MNT_DETACH"),
        (4, "MNT_EXPIRE"),
        (8, "UMOUNT_NOFOLLOW"),
    ];
    let mut found: Vec<String> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if flags & !15 != 0 {
        found.push(format!("{:#x}", flags & !15));
    }
    found
}

fn incident(open: &Open, clock: BootClock, tier: &str, lost: u64, end: Option<(Outcome, u64)>) -> Incident {
    let (references, holders, bystanders) = match &open.books {
        Some((verdict, snapshot, attempt)) => {
            open.holders
                .settle(verdict, *snapshot, Some(*attempt), &open.returns)
        }
        None => (Books::default(), Vec::new(), Vec::new()),
    };
    let mut callers: Vec<Caller> = open
        .callers
        .iter()
        .map(|(pid, (comm, attempts))| Caller {
            pid: *pid,
            comm: comm.clone(),
            attempts: *attempts,
        })
        .collect();
    callers.sort_by_key(|caller| std::cmp::Reverse(caller.attempts));
    let advice = advise(&holders, &open.target);
    Incident {
        schema: Incident::SCHEMA.to_owned(),
        id: open.id,
        operation: "umount2".to_owned(),
        started: clock.timestamp(open.first_entered),
        ended: end.map(|(_, time)| clock.timestamp(time)),
        outcome: end.map(|(outcome, _)| outcome),
        attempts: open.attempts,
        bursts: open.bursts,
        flags: flag_names(open.flags),
        caller: open.caller.clone(),
        callers,
        target: open.target.clone(),
        references,
        holders,
        candidates: Vec::new(),
        bystanders,
        probe: tier.to_owned(),
        lost_events: lost + open.holders.dropped,
        advice,
    }
}
