//! Incidents of refused calls other than umount2, from streams written by hand.

use tracer::{
    identity::BootClock,
    incident::{Analyzer, Output},
    model::{Holder, Incident, IncidentBody, Kind, Operation, Outcome, Process, Reason, Target, Text, Tier},
    stream::{Freed, Record, Refused, Start},
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

fn refused(cause: u64, returned: u64, pid: u32, holders: &[&str]) -> Record {
    let holder = |path: &&str| Holder {
        kind: Kind::ChildMount,
        refs: 1,
        path: Text::from(*path),
        seen_as: Some(Text::from(*path)),
        attempts_blocked: 1,
        ..Holder::default()
    };
    Record::Refused(Box::new(Refused {
        source: 0,
        cause,
        operation: Operation::Rmdir,
        returned,
        caller: Process {
            pid,
            comm: Text::from("rm"),
            ..Process::default()
        },
        target: Target {
            path: Text::from("/srv/volume"),
            ..Target::default()
        },
        reason: Reason::MountPoint,
        holders: holders.iter().map(holder).collect(),
        bystanders: Vec::new(),
        looked: returned,
    }))
}

fn closed(output: Vec<Output>) -> Vec<Incident> {
    let incidents = output.into_iter().filter_map(|output| match output {
        Output::Closed(incident) => Some(*incident),
        Output::Open(_) => None,
    });
    incidents.collect()
}

#[test]
fn refusals_of_one_cause_are_one_incident_until_it_is_gone() {
    let mut analyzer = analyzer();
    analyzer.push(refused(1, S, 7, &["/a"]));
    analyzer.push(refused(1, S + 5, 7, &["/a"]));
    // After a pause, by somebody else, and something else was mounted on it meanwhile.
    analyzer.push(refused(1, 4 * S, 8, &["/a", "/b"]));
    let told = analyzer.push(Record::Tick { time: 4 * S });
    assert!(matches!(told.as_slice(), [Output::Open(_)]));
    let freed = Record::Freed(Freed {
        cause: 1,
        time: 5 * S,
    });
    let incident = closed(analyzer.push(freed.clone())).pop().unwrap();
    let IncidentBody::Operation(refused) = &incident.body else {
        panic!("{incident:?}");
    };
    assert_eq!(
        (refused.operation, refused.reason),
        (Operation::Rmdir, Reason::MountPoint)
    );
    assert_eq!(incident.outcome, Some(Outcome::Released));
    assert_eq!((refused.refusals.attempts, refused.refusals.bursts), (3, 2));
    assert_eq!(refused.refusals.callers.len(), 2);
    assert_eq!(
        (incident.references.counted, incident.references.explained),
        (None, 2)
    );
    let blocked: Vec<u64> = incident
        .holders
        .iter()
        .map(|holder| holder.attempts_blocked)
        .collect();
    assert_eq!(blocked, [3, 1]);
    let umount = incident.fixes[0].command.as_ref().map(ToString::to_string);
    assert_eq!(umount.as_deref(), Some("umount /a /b"));
    assert!(analyzer.push(freed).is_empty());
    assert_eq!((analyzer.totals.operations, analyzer.totals.incidents), (3, 1));
}

#[test]
fn callers_give_up_and_ebusy_stops() {
    let mut analyzer = analyzer();
    analyzer.push(refused(1, S, 7, &["/a"]));
    analyzer.push(refused(2, 20 * S, 7, &[]));
    let gave_up = closed(analyzer.push(Record::Tick { time: 31 * S }));
    assert_eq!(gave_up.len(), 1);
    assert_eq!(gave_up[0].outcome, Some(Outcome::GaveUp));
    let stopped = closed(analyzer.push(Record::End { time: 32 * S }));
    assert_eq!(stopped.len(), 1);
    assert_eq!(stopped[0].outcome, Some(Outcome::StillBusy));
    assert!(stopped[0].holders.is_empty() && stopped[0].id == 2);
}
