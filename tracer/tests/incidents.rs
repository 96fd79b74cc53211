//! Incidents from streams written by hand: attempts, bursts, callers, outcomes, lives of holders.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use tracer::{
    identity::BootClock,
    incident::{Analyzer, Output},
    kernel::{MountState, Reference, Snapshot},
    model::{EvidenceSource, Holder, Incident, Kind, Outcome, Process, Target, Text, Through, Tier},
    probe::Losses,
    stream::{Closed, Gone, Lost, MountKey, Opened, Record, Sample, Start, Umount},
};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
const MOUNT: MountKey = MountKey {
    address: 0xff00,
    id: 7,
    unique: None,
};
const EBUSY: i64 = -16;

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

fn target() -> Target {
    Target {
        path: Text::from("/mnt/data"),
        path_base64: None,
        mount_id: Some(7),
        fs_type: None,
        source: None,
        device: None,
        mount_namespace: Some(1),
        propagation: None,
        container: None,
    }
}

fn umount(at: u64, ret: i64, pid: u32) -> Umount {
    Umount {
        source: 0,
        entered: at,
        checked: None,
        returned: at + MS / 10,
        ret,
        flags: 0,
        caller: Process {
            pid,
            comm: Text::from("umount"),
            mount_namespace: Some(1),
            ..Process::default()
        },
        passed: None,
        mount: Some(MOUNT),
        target: target(),
        shown: true,
        remount: false,
        busy_check: None,
        compared: None,
    }
}

fn refused(at: u64, pid: u32) -> Record {
    Record::Umount(Box::new(umount(at, EBUSY, pid)))
}

#[test]
fn an_address_is_of_an_open_incident_only_in_its_namespace_and_of_its_mount() {
    let mut analyzer = analyzer();
    let own = Some(MOUNT.unique.unwrap_or(u64::from(MOUNT.id)));
    assert_eq!(analyzer.open_target_at((MOUNT.address, own), Some(1)), None);
    analyzer.push(refused(S, 1));
    for (address, number, namespace, found) in [
        (MOUNT.address, own, Some(1), Some(MOUNT)),
        (MOUNT.address, None, None, Some(MOUNT)),
        (MOUNT.address, own, Some(2), None),
        (MOUNT.address + 64, own, Some(1), None),
        // Its address has come to another mount of the same namespace.
        (MOUNT.address, own.map(|own| own + 1), Some(1), None),
    ] {
        assert_eq!(
            analyzer.open_target_at((address, number), namespace),
            found,
            "{number:?} {namespace:?}"
        );
    }
}

fn reference(object: u64, pid: u32) -> Reference {
    let holder = Holder {
        kind: Kind::Fd,
        also: Vec::new(),
        refs: 1,
        process: Some(Process {
            pid,
            comm: Text::from("holder"),
            ..Process::default()
        }),
        fd: Some(3),
        access: None,
        shared_with: Vec::new(),
        path: Text::from("/f"),
        held_by: None,
        reason: None,
        path_base64: None,
        deleted: false,
        seen_as: None,
        seen_as_base64: None,
        mount_id: Some(7),
        mount_namespace: Some(1),
        through: Through::Target,
        counted: false,
        propagation: None,
        opened: None,
        opened_by: None,
        entered: None,
        attempts_blocked: 0,
        takes_along: None,
        evidence: vec![EvidenceSource::Snapshot],
    };
    Reference {
        mount: MOUNT.address,
        object,
        dentry: 0,
        start: 1,
        writes: false,
        holder,
    }
}

/// A snapshot right after the attempt that began at `at`.
fn sample(at: u64, count: i32, references: Vec<Reference>) -> Record {
    let target = MountState {
        address: MOUNT.address,
        mount_id: 7,
        namespace: Some(1),
        counts: [Some(count); 2],
        children: 0,
        covering: 0,
    };
    let attempt = at + MS / 10;
    let snapshot = Snapshot {
        started: attempt + MS,
        finished: attempt + 2 * MS,
        target,
        slots: Vec::new(),
        references,
        candidates: Vec::new(),
        children_counted: true,
        gaps: Vec::new(),
    };
    Record::Snapshot(Box::new(Sample {
        source: 0,
        mount: MOUNT,
        attempt,
        snapshot,
        ledger: Vec::new(),
    }))
}

fn run(records: impl IntoIterator<Item = Record>) -> Vec<Output> {
    let mut analyzer = analyzer();
    records
        .into_iter()
        .flat_map(|record| analyzer.push(record))
        .collect()
}

fn only(output: Vec<Output>) -> Incident {
    let mut closed = output.into_iter().filter_map(|output| match output {
        Output::Closed(incident) => Some(*incident),
        Output::Open(_) => None,
    });
    let incident = closed.next().unwrap();
    assert!(closed.next().is_none(), "more than one incident");
    incident
}

#[test]
fn attempts_of_several_callers_in_bursts_are_one_incident() {
    let mut records: Vec<Record> = (0..50).map(|n| refused(n * 50 * MS, 10)).collect();
    records.extend((0..3).map(|n| refused(10 * S + n * 50 * MS, 11)));
    records.push(Record::Tick { time: 39 * S });
    assert!(
        run(records.clone())
            .iter()
            .all(|output| matches!(output, Output::Open(_))),
        "not quiet for 30 s yet"
    );
    records.push(Record::Tick { time: 41 * S });
    let incident = only(run(records));
    let refusals = incident.body.refusals().unwrap();
    assert_eq!(
        (refusals.attempts, refusals.bursts, incident.outcome),
        (53, 2, Some(Outcome::GaveUp))
    );
    let callers: Vec<(u32, u64)> = incident
        .callers()
        .iter()
        .map(|caller| (caller.pid, caller.attempts))
        .collect();
    assert_eq!(callers, [(10, 50), (11, 3)]);
    assert_eq!(incident.caller.pid, 11, "the last one");
    assert_eq!(incident.references.counted, None, "nobody looked");
}

#[test]
fn a_refusal_is_told_after_a_second_and_again_with_its_outcome() {
    let output = run([
        refused(0, 10),
        Record::Tick { time: 900 * MS },
        Record::Tick { time: 1100 * MS },
        Record::Tick { time: 1300 * MS },
        Record::End { time: 2 * S },
    ]);
    assert!(
        matches!(&output[..], [Output::Open(_), Output::Closed(_)]),
        "{output:?}"
    );
    assert_eq!(only(output).outcome, Some(Outcome::StillBusy));
}

#[test]
fn outcomes_follow_from_what_removed_the_mount() {
    let gone = Record::Gone(Gone {
        mount: MOUNT,
        time: 2 * S,
    });
    let success = |flags| {
        Record::Umount(Box::new(Umount {
            flags,
            ..umount(S, 0, 12)
        }))
    };
    let outcome = |records: Vec<Record>| only(run(records)).outcome.unwrap();
    assert_eq!(
        outcome(vec![refused(0, 10), success(0), gone.clone()]),
        Outcome::Released
    );
    assert_eq!(
        outcome(vec![refused(0, 10), success(2), gone.clone()]),
        Outcome::Detached
    );
    assert_eq!(outcome(vec![refused(0, 10), gone]), Outcome::Gone);
}

#[test]
fn a_holder_is_named_with_the_attempts_that_it_was_there_for() {
    let opened = Record::Opened(Box::new(Opened {
        time: 20 * MS,
        file: 0xf2,
        mount: MOUNT.address,
        dentry: 1,
        by: Process {
            pid: 22,
            ..Process::default()
        },
        fd: Some(3),
        ..Opened::default()
    }));
    // The first holder is there for two attempts; the second comes between the first and the second.
    let incident = only(run([
        refused(0, 10),
        sample(0, 2, vec![reference(0xf1, 21)]),
        opened,
        refused(50 * MS, 10),
        sample(50 * MS, 3, vec![reference(0xf1, 21), reference(0xf2, 22)]),
        Record::Closed(Closed {
            time: 60 * MS,
            file: 0xf1,
        }),
        refused(100 * MS, 10),
        sample(100 * MS, 2, vec![reference(0xf2, 22)]),
        Record::End { time: S },
    ]));
    let holders: Vec<(u32, bool, u64)> = incident
        .holders
        .iter()
        .map(|holder| {
            (
                holder.process.as_ref().unwrap().pid,
                holder.counted,
                holder.attempts_blocked,
            )
        })
        .collect();
    assert_eq!(holders, [(22, true, 2), (21, false, 2)]);
    let books = &incident.references;
    assert_eq!(
        (books.counted, books.explained, books.unexplained),
        (Some(1), 1, Some(0))
    );
    let second = &incident.holders[0];
    assert_eq!(
        second.opened.map(tracer::model::Timestamp::as_nanos),
        Some(20_000_000)
    );
    assert_eq!(
        second.evidence,
        [EvidenceSource::History, EvidenceSource::Snapshot]
    );
}

#[test]
fn a_file_opened_after_the_attempt_is_none_of_its_holders() {
    let opened = Record::Opened(Box::new(Opened {
        time: MS / 2,
        file: 0xf2,
        mount: MOUNT.address,
        dentry: 1,
        by: Process {
            pid: 22,
            ..Process::default()
        },
        fd: Some(3),
        ..Opened::default()
    }));
    let incident = only(run([
        refused(0, 10),
        opened,
        sample(0, 3, vec![reference(0xf1, 21), reference(0xf2, 22)]),
        Record::End { time: S },
    ]));
    let pids: Vec<u32> = incident
        .holders
        .iter()
        .map(|holder| holder.process.as_ref().unwrap().pid)
        .collect();
    assert_eq!(pids, [21]);
}

#[test]
fn a_snapshot_that_came_too_late_leaves_the_books_of_the_attempt_before() {
    let incident = only(run([
        refused(0, 10),
        sample(0, 2, vec![reference(0xf1, 21)]),
        refused(50 * MS, 10),
        sample(50 * MS, 1, Vec::new()),
        Record::End { time: S },
    ]));
    assert_eq!(
        (incident.references.counted, incident.references.explained),
        (Some(1), 1)
    );
    assert_eq!(incident.holders.len(), 1);
    // And where there are none, the count is unknown, not zero.
    let incident = only(run([
        refused(0, 10),
        sample(0, 1, Vec::new()),
        Record::End { time: S },
    ]));
    assert_eq!(
        (incident.references.counted, incident.references.unexplained),
        (None, None)
    );
}

#[test]
fn a_late_snapshot_takes_nobody_from_the_books() {
    let mut beside = reference(0xf2, 22);
    beside.mount = 0xff01;
    beside.holder.through = Through::PrivateCopy;
    let both = [reference(0xf1, 21), beside];
    // Who is found again stays; one beside that has gone since, or that only the late one finds, was beside as well.
    for (first, late) in [
        (&both[..], &both[..]),
        (&both[..], &both[..1]),
        (&both[..1], &both[1..]),
    ] {
        let incident = only(run([
            refused(0, 10),
            sample(0, 2, first.to_vec()),
            refused(50 * MS, 10),
            sample(50 * MS, 1, late.to_vec()),
            Record::End { time: S },
        ]));
        assert_eq!(incident.references.unexplained, Some(0));
        let holders: Vec<(u32, bool)> = named(&incident).iter().map(|found| (found.0, found.1)).collect();
        assert_eq!(holders, [(21, true)]);
        let bystanders = incident.bystanders.iter();
        let pids: Vec<u32> = bystanders
            .filter_map(|found| Some(found.process.as_ref()?.pid))
            .collect();
        assert_eq!(pids, [22]);
    }
}

#[test]
fn a_target_that_could_not_be_resolved_is_known_by_its_path() {
    let unresolved = |at, ret| {
        Record::Umount(Box::new(Umount {
            mount: None,
            ..umount(at, ret, 10)
        }))
    };
    let incident = only(run([
        unresolved(0, EBUSY),
        unresolved(50 * MS, EBUSY),
        unresolved(100 * MS, 0),
    ]));
    assert_eq!(
        (incident.attempts(), incident.outcome),
        (2, Some(Outcome::Released))
    );
}

#[test]
fn attempts_that_could_and_could_not_be_resolved_are_one_incident() {
    let unresolved = |at, ret| {
        Record::Umount(Box::new(Umount {
            mount: None,
            ..umount(at, ret, 10)
        }))
    };
    let gone = || {
        Record::Gone(Gone {
            mount: MOUNT,
            time: S,
        })
    };
    let after = [
        refused(0, 10),
        unresolved(50 * MS, EBUSY),
        unresolved(100 * MS, 0),
        gone(),
    ];
    let before = [
        unresolved(0, EBUSY),
        refused(50 * MS, 10),
        unresolved(100 * MS, 0),
        gone(),
    ];
    for records in [after, before] {
        let incident = only(run(records));
        assert_eq!(
            (incident.attempts(), incident.outcome),
            (2, Some(Outcome::Released))
        );
    }
}

/// An attempt whose check was seen: the count is with the two references of the umount itself.
fn checked(at: u64, count: i32) -> Record {
    Record::Umount(Box::new(Umount {
        checked: Some(at + MS / 20),
        busy_check: Some(true),
        compared: Some((MOUNT.address, count)),
        ..umount(at, EBUSY, 10)
    }))
}

fn opened(at: u64, file: u64, pid: u32) -> Record {
    Record::Opened(Box::new(Opened {
        time: at,
        file,
        mount: MOUNT.address,
        by: Process {
            pid,
            ..Process::default()
        },
        ..Opened::default()
    }))
}

fn closed(at: u64, file: u64) -> Record {
    Record::Closed(Closed { time: at, file })
}

/// Process, whether it is in the books, attempts.
fn named(incident: &Incident) -> Vec<(u32, bool, u64)> {
    let holders = incident.holders.iter();
    holders
        .map(|holder| {
            let pid = holder.process.as_ref().map_or(0, |process| process.pid);
            (pid, holder.counted, holder.attempts_blocked)
        })
        .collect()
}

#[test]
fn a_holder_of_a_moment_is_known_by_the_history() {
    let incident = only(run([
        opened(5 * MS, 0xf1, 21),
        checked(6 * MS, 3),
        closed(7 * MS, 0xf1),
        Record::End { time: S },
    ]));
    assert_eq!(named(&incident), [(21, true, 1)]);
    let books = &incident.references;
    assert_eq!((books.counted, books.explained), (Some(1), 1));
}

#[test]
fn a_close_that_is_told_late_clears_its_file() {
    let incident = only(run([
        opened(MS, 0xf1, 21),
        checked(6 * MS, 3),
        // It was over before the check.
        closed(2 * MS, 0xf1),
        Record::End { time: S },
    ]));
    assert_eq!(named(&incident), []);
    assert_eq!(incident.references.unexplained, Some(1));
}

#[test]
fn after_a_loss_the_history_accuses_nobody() {
    let mut losses = Losses::default();
    losses.add("open: event ring full", 1);
    let lost = |time| {
        Record::Lost(Lost {
            noise: Vec::new(),
            time,
            losses: losses.clone(),
        })
    };
    let incident = only(run([
        Record::Tick { time: 0 },
        opened(MS, 0xf1, 21),
        checked(6 * MS, 3),
        lost(8 * MS),
        Record::End { time: S },
    ]));
    assert_eq!(named(&incident), [], "its close may be what was lost");
    let incident = only(run([
        Record::Tick { time: 0 },
        opened(MS, 0xf1, 21),
        checked(6 * MS, 3),
        closed(7 * MS, 0xf1),
        Record::Tick { time: 10 * MS },
        lost(11 * MS),
        Record::End { time: S },
    ]));
    assert_eq!(named(&incident), [(21, true, 1)], "it was over before");
}

#[test]
fn the_last_attempt_is_settled_by_the_history_where_nobody_looked() {
    let incident = only(run([
        opened(MS, 0xf1, 21),
        checked(6 * MS, 3),
        sample(6 * MS, 2, vec![reference(0xf1, 21)]),
        opened(20 * MS, 0xf2, 22),
        checked(21 * MS, 4),
        closed(22 * MS, 0xf2),
        Record::End { time: S },
    ]));
    assert_eq!(named(&incident), [(21, true, 2), (22, true, 1)]);
    let books = &incident.references;
    assert_eq!((books.counted, books.explained), (Some(2), 2));
}
