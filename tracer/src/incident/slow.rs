//! umount2 calls that take long: each is one incident, told when the limit has passed and when it is over.

use std::collections::HashMap;

use super::{
    MNT_DETACH, flag_names,
    run::{Output, Run},
    waits::waits,
};
use crate::{
    advice::advise_incident,
    model::{self, Books, Incident, IncidentBody, Outcome},
    stream::Slow,
};

/// Those that are not over, by the number of their cause, with that of their incident.
#[derive(Debug, Default)]
pub(super) struct SlowUmounts {
    open: HashMap<u64, (u64, Slow)>,
}

impl SlowUmounts {
    /// An umount takes long, or did; a new one takes a number from `next`. What is to be told, and whether it is new.
    pub(super) fn seen(&mut self, slow: Slow, next: &mut u64, run: Run) -> (Option<Output>, bool) {
        let known = self.open.remove(&slow.cause).map(|(id, _)| id);
        let id = known.unwrap_or(*next);
        *next += u64::from(known.is_none());
        let end = slow.ended.map(|ended| (outcome(&slow), ended));
        let told = match (known, end) {
            (_, Some(_)) => Some(Output::Closed(Box::new(incident(id, &slow, run, end)))),
            (None, None) => Some(Output::Open(Box::new(incident(id, &slow, run, None)))),
            (Some(_), None) => None,
        };
        if end.is_none() {
            self.open.insert(slow.cause, (id, slow));
        }
        (told, known.is_none())
    }

    /// Where there are too many, that which was looked at the longest ago.
    pub(super) fn beyond(&mut self, most: usize, run: Run) -> Option<Incident> {
        if self.open.len() <= most {
            return None;
        }
        let oldest = self.open.iter().min_by_key(|(_, (id, slow))| (slow.looked, *id));
        let (id, slow) = oldest
            .map(|(cause, _)| *cause)
            .and_then(|cause| self.open.remove(&cause))?;
        let end = Some((Outcome::StillBusy, slow.looked));
        Some(incident(id, &slow, run, end))
    }

    /// All that are not over when ebusy stops.
    pub(super) fn end(&mut self, time: u64, run: Run) -> Vec<Incident> {
        let mut open: Vec<(u64, Slow)> = std::mem::take(&mut self.open).into_values().collect();
        open.sort_by_key(|(id, _)| *id);
        open.iter()
            .map(|(id, slow)| incident(*id, slow, run, Some((Outcome::StillBusy, time))))
            .collect()
    }
}

fn outcome(slow: &Slow) -> Outcome {
    match slow.result {
        Some((0, _)) if slow.flags & MNT_DETACH != 0 => Outcome::Detached,
        Some((0, _)) => Outcome::Released,
        Some(_) => Outcome::Failed,
        // Its record was lost.
        None => Outcome::Gone,
    }
}

fn incident(id: u64, slow: &Slow, run: Run, end: Option<(Outcome, u64)>) -> Incident {
    let clock = run.clock;
    let seen = model::Slow {
        answered: slow.result.map(|(_, time)| clock.timestamp(time)),
        error: slow
            .result
            .filter(|(result, _)| *result != 0)
            .map(|(result, _)| error_name(result)),
        looks: (slow.stacks.iter()).fold(slow.others, |sum, stack| sum.saturating_add(stack.looks)),
        waits: waits(&slow.stacks, slow.target.fs_type.as_deref(), clock),
    };
    let mut incident = Incident {
        schema: Incident::SCHEMA.to_owned(),
        id,
        body: IncidentBody::Slow(seen),
        started: clock.timestamp(slow.entered),
        ended: end.map(|(_, time)| clock.timestamp(time)),
        outcome: end.map(|(outcome, _)| outcome),
        flags: flag_names(slow.flags),
        caller: slow.caller.clone(),
        target: slow.target.clone(),
        references: Books {
            sampled_at: Some(clock.timestamp(slow.looked)),
            ..Books::default()
        },
        fixes: Vec::new(),
        holders: Vec::new(),
        bystanders: Vec::new(),
        probe: run.tier,
        lost_events: run.lost,
        noise: Vec::new(),
        source: slow.source,
    };
    advise_incident(&mut incident);
    incident
}

/// The name of a negative errno that umount2 is known to return.
fn error_name(result: i64) -> String {
    // uapi/asm-generic/errno-base.h, errno.h
    let names = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (4, "EINTR"),
        (5, "EIO"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (16, "EBUSY"),
        (20, "ENOTDIR"),
        (22, "EINVAL"),
        (36, "ENAMETOOLONG"),
        (40, "ELOOP"),
        (107, "ENOTCONN"),
        (110, "ETIMEDOUT"),
        (116, "ESTALE"),
        (512, "ERESTARTSYS"),
    ];
    let number = result.unsigned_abs();
    names
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use crate::{
        identity::BootClock,
        incident::{Analyzer, Output},
        model::{self, Incident, IncidentBody, IncidentOperation, Outcome, Phase, Tier, WaitsFor},
        stream::{Record, Slow, Stack, Start},
    };

    const S: u64 = 1_000_000_000;

    fn slow(result: Option<i64>, ended: Option<u64>) -> Slow {
        let stack = |functions: &[&str], looks| Stack {
            functions: functions.iter().map(|name| (*name).to_owned()).collect(),
            looks,
            first: 2 * S,
            last: 3 * S,
        };
        Slow {
            source: 0,
            cause: 4,
            entered: S,
            limit: S,
            flags: 2,
            caller: model::Process::default(),
            target: model::Target::default(),
            result: result.map(|result| (result, S + 1)),
            ended,
            stacks: vec![
                stack(&["ovl_sync_fs", "sync_filesystem", "cleanup_mnt"], 2),
                stack(&["io_schedule", "folio_wait_writeback", "sync_filesystem"], 5),
            ],
            others: 1,
            looked: ended.unwrap_or(2 * S),
        }
    }

    fn told(output: Vec<Output>) -> Vec<Incident> {
        output
            .into_iter()
            .map(|(Output::Open(incident) | Output::Closed(incident))| *incident)
            .collect()
    }

    fn body(incident: &Incident) -> model::Slow {
        match &incident.body {
            IncidentBody::Slow(slow) => slow.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn analyzer() -> Analyzer {
        Analyzer::new(Start {
            version: String::new(),
            kernel: String::new(),
            tier: Tier::Tracepoint,
            clock: BootClock { offset_nanos: 0 },
            history: true,
            run: None,
        })
    }

    #[test]
    fn it_is_told_when_it_is_known_and_when_it_is_over() {
        let mut analyzer = analyzer();
        let mut push = |record| told(analyzer.push(Record::Slow(Box::new(record))));
        let first = push(slow(None, None)).remove(0);
        assert_eq!((first.id, first.outcome, first.attempts()), (1, None, 0));
        assert_eq!(first.body.operation(), IncidentOperation::SlowUmount);
        assert!(push(slow(Some(0), None)).is_empty());
        let last = push(slow(Some(0), Some(32 * S))).remove(0);
        assert_eq!((last.id, last.outcome), (1, Some(Outcome::Detached)));
        assert_eq!(
            last.ended.unwrap().as_nanos() - last.started.as_nanos(),
            31 * S as i64
        );
        let seen = body(&last);
        assert_eq!((seen.looks, seen.waits.len(), seen.error), (8, 2, None));
        let most = &seen.waits[0];
        assert_eq!(
            (most.phase, most.waits_for, most.looks),
            (Phase::Sync, Some(WaitsFor::Device), 5)
        );
        assert!(!last.fixes.is_empty());
        // One that is over at once, with an error.
        let other = push(slow(Some(-16), Some(3 * S))).remove(0);
        assert_eq!((other.id, other.outcome), (2, Some(Outcome::Failed)));
        assert_eq!(body(&other).error.unwrap(), "EBUSY");
        assert_eq!((analyzer.totals.slow, analyzer.totals.incidents), (2, 0));
    }

    #[test]
    fn what_hangs_when_ebusy_stops_is_still_busy() {
        let mut analyzer = analyzer();
        analyzer.push(Record::Slow(Box::new(slow(None, None))));
        let ended = told(analyzer.push(Record::End { time: 9 * S }));
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].outcome, Some(Outcome::StillBusy));
    }
}
