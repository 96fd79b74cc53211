//! Mounts that were detached and live on: each is one incident, until its last reference goes. Nothing was refused, so
//! it has no attempts.

use std::collections::HashMap;

use super::{
    History, MNT_DETACH, flag_names,
    run::{Run, TELL},
};
use crate::{
    advice::advise_incident,
    identity::BootClock,
    model::{Books, EvidenceSource, Incident, IncidentBody, Outcome},
    stream::{Detached, Freed},
};

#[derive(Debug)]
struct Open {
    /// Once it is told.
    id: Option<u64>,
    last: Detached,
    /// The last that was found with a holder.
    kept: Option<Detached>,
}

/// Those that live on, by the number of their cause.
#[derive(Debug, Default)]
pub(super) struct DetachedMounts {
    open: HashMap<u64, Open>,
}

impl DetachedMounts {
    /// A mount lives on; the history says since when its files are open.
    pub(super) fn seen(&mut self, mut detached: Detached, history: &mut History, clock: BootClock) {
        recall(&mut detached, history, clock);
        let open = self.open.entry(detached.cause).or_insert_with(|| Open {
            id: None,
            last: detached.clone(),
            kept: None,
        });
        if !detached.holders.is_empty() {
            open.kept = Some(detached.clone());
        }
        open.last = detached;
    }

    /// The last reference went. Who had that is told, not what was found when nobody was left.
    pub(super) fn freed(&mut self, freed: &Freed, run: Run) -> Option<Incident> {
        let open = self.open.remove(&freed.cause)?;
        let last = open.kept.as_ref().unwrap_or(&open.last);
        Some(incident(
            open.id?,
            last,
            run,
            Some((Outcome::Released, freed.time)),
        ))
    }

    /// Those that have lived on for a while and were not told yet; each takes a number from `next`.
    pub(super) fn tick(&mut self, time: u64, next: &mut u64, run: Run) -> Vec<Incident> {
        let mut due: Vec<&mut Open> = self
            .open
            .values_mut()
            .filter(|open| open.id.is_none() && time.saturating_sub(open.last.detached) >= TELL)
            .collect();
        due.sort_by_key(|open| open.last.cause);
        due.into_iter()
            .map(|open| {
                let id = *open.id.insert(*next);
                *next += 1;
                incident(id, &open.last, run, None)
            })
            .collect()
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// When the first of them is to be told.
    pub(super) fn due(&self) -> u64 {
        let untold = self.open.values().filter(|open| open.id.is_none());
        let due = untold.map(|open| open.last.detached.saturating_add(TELL));
        due.min().unwrap_or(u64::MAX)
    }

    /// Where there are too many, that which was looked at the longest ago, if it was told.
    pub(super) fn beyond(&mut self, most: usize, run: Run) -> Option<Incident> {
        if self.open.len() <= most {
            return None;
        }
        let oldest = self
            .open
            .iter()
            .min_by_key(|(cause, open)| (open.last.looked, **cause));
        let open = oldest
            .map(|(cause, _)| *cause)
            .and_then(|cause| self.open.remove(&cause))?;
        let end = Some((Outcome::StillBusy, open.last.looked));
        Some(incident(open.id?, &open.last, run, end))
    }

    /// Those that were told, when ebusy stops.
    pub(super) fn end(&mut self, time: u64, run: Run) -> Vec<Incident> {
        let mut open: Vec<(u64, Detached)> = std::mem::take(&mut self.open)
            .into_values()
            .filter_map(|open| Some((open.id?, open.last)))
            .collect();
        open.sort_by_key(|(id, _)| *id);
        open.iter()
            .map(|(id, last)| incident(*id, last, run, Some((Outcome::StillBusy, time))))
            .collect()
    }
}

/// Who opened the files of the holders, and when.
fn recall(detached: &mut Detached, history: &mut History, clock: BootClock) {
    for opened in std::mem::take(&mut detached.ledger) {
        history.recall(&opened);
    }
    for (holder, object) in detached.holders.iter_mut().zip(&detached.objects) {
        let opened = history.of(
            object.address,
            detached.mount.address,
            object.dentry,
            detached.looked,
        );
        let times = (object.start, detached.looked);
        holder.entered = history.enterings.way_in(holder, opened, times, Some(clock));
        if let Some(opened) = opened {
            holder.opened = Some(clock.timestamp(opened.time));
            holder.opened_by = Some(opened.by.clone());
            holder.evidence = vec![EvidenceSource::History, EvidenceSource::Snapshot];
        }
    }
}

fn incident(id: u64, last: &Detached, run: Run, end: Option<(Outcome, u64)>) -> Incident {
    let clock = run.clock;
    let explained = (last.holders.iter()).fold(0, |sum: u64, holder| sum.saturating_add(holder.refs));
    let mut incident = Incident {
        schema: Incident::SCHEMA.to_owned(),
        id,
        body: IncidentBody::Detached,
        started: clock.timestamp(last.detached),
        ended: end.map(|(_, time)| clock.timestamp(time)),
        outcome: end.map(|(outcome, _)| outcome),
        flags: flag_names(MNT_DETACH),
        caller: last.caller.clone(),
        target: last.target.clone(),
        references: Books {
            counted: last.counted,
            explained,
            unexplained: last.counted.map(|counted| counted.saturating_sub(explained)),
            overexplained: last
                .counted
                .map_or(0, |counted| explained.saturating_sub(counted)),
            sampled_at: Some(clock.timestamp(last.looked)),
            gaps: last.gaps.clone(),
            ..Books::default()
        },
        fixes: Vec::new(),
        holders: last.holders.clone(),
        bystanders: Vec::new(),
        probe: run.tier,
        lost_events: run.lost,
        noise: Vec::new(),
        source: last.source,
    };
    advise_incident(&mut incident);
    incident
}

#[cfg(test)]
mod tests {
    use crate::{
        identity::BootClock,
        incident::{Analyzer, Output},
        model::{Holder, Incident, IncidentBody, Outcome, Process, Target, Tier, Timestamp},
        stream::{Closed, Detached, Freed, MountKey, Object, Opened, Record, Start},
    };

    const S: u64 = 1_000_000_000;

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

    fn detached(cause: u64, looked: u64, pids: &[u32]) -> Record {
        let holder = |pid: &u32| Holder {
            refs: 1,
            process: Some(Process {
                pid: *pid,
                ..Process::default()
            }),
            ..Holder::default()
        };
        Record::Detached(Box::new(Detached {
            source: 0,
            cause,
            mount: MountKey {
                address: 1,
                id: 2,
                unique: None,
            },
            detached: S,
            caller: Process::default(),
            target: Target {
                path: "/srv/volume".into(),
                ..Target::default()
            },
            holders: pids.iter().map(holder).collect(),
            counted: Some(2),
            looked,
            gaps: Vec::new(),
            objects: pids
                .iter()
                .map(|pid| Object {
                    address: u64::from(*pid),
                    start: 5,
                    dentry: 0,
                })
                .collect(),
            ledger: Vec::new(),
        }))
    }

    fn incidents(output: Vec<Output>) -> Vec<Incident> {
        output
            .into_iter()
            .map(|(Output::Open(incident) | Output::Closed(incident))| *incident)
            .collect()
    }

    #[test]
    fn it_is_told_after_a_second_and_when_its_last_reference_goes() {
        let mut analyzer = analyzer();
        assert!(analyzer.push(detached(1, S, &[7, 8])).is_empty());
        assert!(analyzer.push(Record::Tick { time: 2 * S - 1 }).is_empty());
        let told = incidents(analyzer.push(Record::Tick { time: 2 * S })).remove(0);
        assert_eq!((told.id, told.outcome, told.attempts()), (1, None, 0));
        assert_eq!(told.body, IncidentBody::Detached);
        assert_eq!(told.flags, ["MNT_DETACH"]);
        assert_eq!(
            (told.references.counted, told.references.unexplained),
            (Some(2), Some(0))
        );
        assert!(analyzer.push(Record::Tick { time: 3 * S }).is_empty());
        // One of them ended, and then the other, when it was being looked at.
        analyzer.push(detached(1, 3 * S, &[8]));
        analyzer.push(detached(1, 4 * S, &[]));
        let time = 42 * S;
        let freed = Record::Freed(Freed { cause: 1, time });
        let ended = incidents(analyzer.push(freed.clone())).remove(0);
        assert_eq!((ended.id, ended.outcome), (1, Some(Outcome::Released)));
        assert_eq!(
            ended.ended.unwrap().as_nanos() - ended.started.as_nanos(),
            41 * S as i64
        );
        let pids: Vec<u32> = ended
            .holders
            .iter()
            .filter_map(|holder| Some(holder.process.as_ref()?.pid))
            .collect();
        assert_eq!((pids, ended.references.unexplained), (vec![8], Some(1)));
        assert!(analyzer.push(freed).is_empty());
        assert_eq!(analyzer.totals.incidents, 1);
    }

    #[test]
    fn the_history_and_the_ledger_say_since_when_its_files_are_open() {
        let opened = |file: u64, mount: u64, time: u64| Opened {
            time,
            file,
            mount,
            by: Process {
                pid: 3,
                ..Process::default()
            },
            start: 5,
            ..Opened::default()
        };
        let mut analyzer = analyzer();
        analyzer.push(Record::Opened(Box::new(opened(7, 1, 100))));
        // On another mount; and of an older life of that address.
        analyzer.push(Record::Opened(Box::new(opened(8, 2, 100))));
        analyzer.push(Record::Opened(Box::new(opened(9, 1, 100))));
        analyzer.push(Record::Closed(Closed { time: 200, file: 9 }));
        let Record::Detached(mut of) = detached(1, S, &[7, 8, 9, 10, 11]) else {
            unreachable!()
        };
        // Only the ledger has this one; that one was opened after it was found.
        of.ledger = vec![opened(10, 1, 300), opened(11, 1, S + 1)];
        analyzer.push(Record::Detached(of));
        let told = incidents(analyzer.push(Record::Tick { time: 2 * S })).remove(0);
        let since: Vec<_> = told
            .holders
            .iter()
            .map(|holder| {
                let by = holder.opened_by.as_ref().map(|by| by.pid);
                (holder.opened.map(Timestamp::as_nanos), by, holder.evidence.len())
            })
            .collect();
        let (seen, unseen) = (|at| (Some(at), Some(3), 2), (None, None, 0));
        assert_eq!(since, [seen(100), unseen, unseen, seen(300), unseen]);
    }

    #[test]
    fn what_is_freed_within_a_second_is_not_told() {
        let mut analyzer = analyzer();
        analyzer.push(detached(1, S, &[7]));
        let freed = Freed {
            cause: 1,
            time: S + S / 2,
        };
        assert!(analyzer.push(Record::Freed(freed)).is_empty());
        analyzer.push(detached(2, S, &[7]));
        assert!(analyzer.push(Record::End { time: S + S / 2 }).is_empty());
        assert_eq!(analyzer.totals.incidents, 0);
    }

    #[test]
    fn what_is_there_when_ebusy_stops_is_still_busy() {
        let mut analyzer = analyzer();
        analyzer.push(detached(2, S, &[7]));
        analyzer.push(detached(1, S, &[]));
        assert_eq!(analyzer.push(Record::Tick { time: 3 * S }).len(), 2);
        let ended = incidents(analyzer.push(Record::End { time: 5 * S }));
        assert_eq!(ended.len(), 2);
        assert!(
            ended
                .iter()
                .all(|incident| incident.outcome == Some(Outcome::StillBusy))
        );
        assert!(ended[0].holders.is_empty() && ended[0].id == 1);
        assert!(ended[0].fixes.iter().any(|fix| fix.text.contains("DETACH")));
    }
}
