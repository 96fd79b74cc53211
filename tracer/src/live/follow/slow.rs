//! umount2 calls that take long: who is in one, for how long, and at what. The map of the programs has those that have no
//! result yet, with their paths: ebusy itself reads no memory of another process, which may wait for whoever provides it
//! (docs/security.md). Afterwards the caller is kept on its way back to user space, where the kernel frees what nobody uses any
//! more (`task_work`), which syncs and shuts down the file system: the registers of the thread tell when that is over.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tracer_common::HOST;

use super::follower::Follower;
use crate::{
    identity::boot_nanos,
    incident::{Skipped, has_room},
    live::{
        context::Context,
        returned::{Returned, resolve},
        stack,
    },
    model::Target,
    stream::{RawUmount, Record, Slow, Stack},
    watchdog::Step,
};

/// `umount2` of x86-64.
const UMOUNT2: u64 = 166;
/// What is lost of those that are too many.
const SKIPPED: &str = "slow umounts: too many to follow";
/// Threads that are followed at the most: as many as there is room for in the kernel.
const FOLLOWED_MAX: usize = 2048;
/// Threads of the host, and of others, of which the stack is read at one look at the most.
const READ_MAX: usize = 64;
/// Different stacks of one umount that are kept at the most.
const STACKS_MAX: usize = 16;
/// How often one that does nothing new is told to the stream, ns.
const AGAIN: u64 = 10_000_000_000;
/// How often a call may be found neither under way nor returned before its record is taken for lost: a look is made
/// between the two.
const MISSING_MAX: u32 = 5;

/// What is known of them, by thread.
#[derive(Debug, Default)]
pub(in crate::live) struct SlowUmounts {
    followed: HashMap<u32, Followed>,
    /// Umounts that were too many to follow, by source.
    skipped: Skipped,
}

#[derive(Debug)]
struct Followed {
    raw: RawUmount,
    /// Its record is here.
    answered: bool,
    missing: u32,
    /// It was seen on its way back after its result.
    lingered: bool,
    /// Once that is known.
    target: Option<Target>,
    stacks: Vec<Stack>,
    others: u64,
    telling: Telling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// It has not taken long enough.
    NotYet,
    /// Of no interest to the user.
    Never,
    /// Told, with this cause, then, and with so many stacks.
    Told { cause: u64, time: u64, stacks: usize },
}

impl Followed {
    fn new(raw: RawUmount, answered: bool, target: Option<Target>) -> Self {
        Self {
            raw,
            answered,
            missing: 0,
            lingered: false,
            target,
            stacks: Vec::new(),
            others: 0,
            telling: Telling::NotYet,
        }
    }

    fn look(&mut self, time: u64) {
        let tid = self.raw.caller.tid.unwrap_or(self.raw.caller.pid);
        let Some(functions) = stack::of_umount(self.raw.caller.pid, tid) else {
            return;
        };
        if let Some(known) = self.stacks.iter_mut().find(|known| known.functions == functions) {
            known.looks += 1;
            known.last = time;
        } else if self.stacks.len() < STACKS_MAX {
            self.stacks.push(Stack {
                functions,
                looks: 1,
                first: time,
                last: time,
            });
        } else {
            self.others += 1;
        }
    }
}

impl SlowUmounts {
    /// Whether there is room for one more of a source; one that has none is counted.
    fn has_room(&mut self, source: u64) -> bool {
        let there = self.followed.values().map(|followed| followed.raw.source);
        let has_room = has_room(there, source, FOLLOWED_MAX);
        if !has_room {
            *self.skipped.entry(source).or_default() += 1;
        }
        has_room
    }
}

/// What takes longer is told, ns.
fn limit(context: &Context) -> Option<u64> {
    let nanos = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    context.options.slow.map(nanos)
}

impl Follower for SlowUmounts {
    fn step(&self) -> Step {
        Step::Slow
    }

    /// An umount has its result; those that succeeded have a way to go.
    fn umount(&mut self, context: &mut Context, umount: &Returned<'_>) {
        let (raw, target) = (umount.raw, &umount.target);
        let Some(limit) = limit(context) else { return };
        let tid = raw.caller.tid.unwrap_or(raw.caller.pid);
        let known = self.followed.remove(&tid);
        let mut followed = match known {
            Some(mut known) if known.raw.entered == raw.entered => {
                // What the kernel program could not read at the entry it may have read at the return.
                let was_unknown = known.raw.path.is_none() && known.raw.target.is_none();
                if known.target.is_none() || was_unknown {
                    known.target = Some(target.clone());
                }
                known.raw = raw.clone();
                known.answered = true;
                known
            }
            other => {
                if let Some(other) = other {
                    over(context, other, raw.entered, limit);
                }
                Followed::new(raw.clone(), true, Some(target.clone()))
            }
        };
        if raw.ret != 0 {
            // Nothing was taken away, so nothing is left to do.
            return over(context, followed, raw.returned, limit);
        }
        if !self.has_room(raw.source) {
            return;
        }
        followed.missing = 0;
        self.followed.insert(tid, followed);
    }

    /// Looks who is in an umount2, and at what.
    fn tick(&mut self, context: &mut Context, end: bool) {
        let Some(limit) = limit(context) else { return };
        let under_way = self.under_way(context, limit);
        let now = boot_nanos();
        let mut ended = Vec::new();
        let mut looks = [0; 2];
        let kernel = context.kernel();
        for (tid, followed) in &mut self.followed {
            let raw = &followed.raw;
            if !under_way.contains(tid) {
                let is_there = kernel.system_call(raw.task, raw.caller.pid, *tid) == Some(UMOUNT2);
                followed.missing += u32::from(!followed.answered);
                let lost = followed.missing > MISSING_MAX;
                if (followed.answered && !is_there) || lost {
                    ended.push(*tid);
                    continue;
                }
                if !is_there {
                    continue;
                }
                followed.lingered = followed.answered;
            }
            // The text of a stack waits while its process becomes another program (`exec_update_lock`): of a thread that
            // is in another system call by now it is not asked for.
            let call = kernel.system_call(raw.task, raw.caller.pid, *tid);
            let elsewhere = call.is_some_and(|call| call != UMOUNT2);
            let looks = &mut looks[usize::from(followed.raw.source != HOST)];
            if followed.telling != Telling::Never && *looks < READ_MAX && !elsewhere {
                *looks += 1;
                followed.look(now);
            }
        }
        for tid in ended {
            if let Some(followed) = self.followed.remove(&tid) {
                over(context, followed, now, limit);
            }
        }
        let due: Vec<u32> = self
            .followed
            .iter()
            .filter(|(_, followed)| match followed.telling {
                Telling::Never => false,
                Telling::NotYet => now.saturating_sub(followed.raw.entered) >= limit,
                Telling::Told { time, stacks, .. } => {
                    end || followed.stacks.len() > stacks || now.saturating_sub(time) >= AGAIN
                }
            })
            .map(|(tid, _)| *tid)
            .collect();
        for tid in due {
            if let Some(mut followed) = self.followed.remove(&tid) {
                tell(context, &mut followed, limit, None);
                self.followed.insert(tid, followed);
            }
        }
    }

    fn skipped(&self) -> Option<(&'static str, &Skipped)> {
        Some((SKIPPED, &self.skipped))
    }
}

impl SlowUmounts {
    /// Follows those that have no result yet; their threads.
    fn under_way(&mut self, context: &mut Context, limit: u64) -> HashSet<u32> {
        let own = std::process::id();
        let mut threads = HashSet::new();
        for (tid, call) in context.probes.under_way.all() {
            let known = self.followed.get(&tid);
            if known.is_some_and(|known| known.raw.entered == call.entered) {
                threads.insert(tid);
                continue;
            }
            if let Some(other) = self.followed.remove(&tid) {
                over(context, other, call.entered, limit);
            }
            let kernel = context.kernel();
            let Some(mut raw) = kernel.umount_under_way(tid, &call) else {
                continue;
            };
            if raw.caller.pid == own {
                continue;
            }
            raw.path = call.passed().map(<[u8]>::to_vec);
            if !self.has_room(raw.source) {
                continue;
            }
            threads.insert(tid);
            self.followed.insert(tid, Followed::new(raw, false, None));
        }
        threads
    }
}

/// It was found at a time to be over. One that was not told before, and had its result soon enough, may have been over
/// long before that time.
fn over(context: &mut Context, mut followed: Followed, found: u64, limit: u64) {
    let raw = &followed.raw;
    let returned = raw.returned.saturating_sub(raw.entered);
    let ended = if followed.answered && !followed.lingered {
        raw.returned
    } else {
        found
    };
    if matches!(followed.telling, Telling::Told { .. }) || (followed.answered && returned >= limit) {
        tell(context, &mut followed, limit, Some(ended));
    }
}

fn tell(context: &mut Context, followed: &mut Followed, limit: u64, ended: Option<u64>) {
    let raw = &followed.raw;
    let target = match followed.target.take() {
        Some(target) => target,
        None => resolve(context, &followed.raw, false).1,
    };
    let caller = context.complete_caller(&raw.caller, raw.start);
    let cause = match followed.telling {
        Telling::Never => None,
        Telling::Told { cause, .. } => Some(cause),
        Telling::NotYet => context.is_shown(&target.path, &caller).then(|| context.number()),
    };
    let Some(cause) = cause else {
        // Of one whose path is not known yet, it is not known either whether anybody wants to see it.
        if followed.answered || raw.path.is_some() || raw.target.is_some() {
            followed.telling = Telling::Never;
        }
        followed.target = Some(target);
        return;
    };
    let looked = boot_nanos();
    followed.telling = Telling::Told {
        cause,
        time: looked,
        stacks: followed.stacks.len(),
    };
    followed.target = Some(target.clone());
    let record = Slow {
        cause,
        entered: raw.entered,
        limit,
        flags: raw.flags,
        source: raw.source,
        caller,
        target,
        result: followed.answered.then_some((raw.ret, raw.returned)),
        ended,
        stacks: followed.stacks.clone(),
        others: followed.others,
        looked,
    };
    context.push(Record::Slow(Box::new(record)));
}
