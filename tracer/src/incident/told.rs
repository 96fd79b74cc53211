//! What is told of an incident: from what was kept of it to the report.

use std::collections::BTreeMap;

use super::{books::Verdict, holders::Settled, open::Open};
use crate::{
    advice::advise_incident,
    identity::BootClock,
    model::{Caller, Incident, IncidentBody, Outcome, Refusals, RefusedUmount, Retry, Since, Text, Tier},
};

/// Flag of umount2(2).
pub(crate) const MNT_DETACH: u32 = 2;

/// `MNT_*` and `UMOUNT_*` names of flags.
pub(crate) fn flag_names(flags: u32) -> Vec<String> {
    // include/linux/fs.h
    let names = [
        (1, "MNT_FORCE"),
        (MNT_DETACH, "MNT_DETACH"),
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

/// The books of the last attempt that was followed by a snapshot in time; those of the very last one, if the kernel told
/// how many there were, and the history knows them all or nobody has ever looked.
pub(super) fn settle(open: &Open) -> Settled {
    let last = open.returns.last().copied();
    let sampled = open.books.as_ref().map(|(_, _, attempt)| *attempt);
    let told = open
        .told
        .of_target(open.mount)
        .zip(last)
        .filter(|(verdict, last)| {
            let overlay = open.target.fs_type.as_deref() == Some("overlay");
            let known = open.holders.known_of(verdict.guilty, *last, overlay);
            sampled.is_none() || sampled != Some(*last) && verdict.books.counted == Some(known)
        });
    let settled = |verdict: &Verdict, attempt, snapshot| {
        open.holders
            .settle(verdict, snapshot, Some(attempt), &open.returns, &open.target)
    };
    match (&told, &open.books) {
        (Some((verdict, last)), _) => settled(verdict, *last, None),
        (None, Some((verdict, snapshot, attempt))) => settled(verdict, *attempt, Some(*snapshot)),
        (None, None) => Settled::default(),
    }
}

/// Who tried, most often first.
pub(super) fn callers(all: &BTreeMap<u32, (Text, u64)>) -> Vec<Caller> {
    let mut callers: Vec<Caller> = all
        .iter()
        .map(|(pid, (comm, attempts))| Caller {
            pid: *pid,
            comm: comm.clone(),
            attempts: *attempts,
        })
        .collect();
    callers.sort_by_key(|caller| std::cmp::Reverse(caller.attempts));
    callers
}

/// What is known of the mount beyond the incident.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) since: Option<Since>,
    pub(super) retry: Option<Retry>,
}

pub(super) fn incident(
    open: &Open,
    settled: Settled,
    clock: BootClock,
    tier: Tier,
    lost: u64,
    end: Option<(Outcome, u64)>,
    again: Again,
) -> Incident {
    let mut incident = Incident {
        schema: Incident::SCHEMA.to_owned(),
        id: open.id,
        body: IncidentBody::Umount(RefusedUmount {
            of_own_root: open.told.remount,
            refusals: Refusals {
                attempts: open.attempts,
                bursts: open.bursts,
                callers: callers(&open.callers),
            },
            candidates: settled.candidates,
            since: again.since,
            retry: again.retry,
        }),
        started: clock.timestamp(open.first_entered),
        ended: end.map(|(_, time)| clock.timestamp(time)),
        outcome: end.map(|(outcome, _)| outcome),
        flags: flag_names(open.flags),
        caller: open.caller.clone(),
        target: open.target.clone(),
        references: settled.books,
        holders: settled.holders,
        bystanders: settled.bystanders,
        probe: tier,
        lost_events: lost.saturating_add(open.holders.dropped),
        noise: Vec::new(),
        source: open.source,
        fixes: Vec::new(),
    };
    advise_incident(&mut incident);
    incident
}
