//! Whatever a report holds, it stays within its lines and columns, and writes nothing that a terminal would obey.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{Style, incident, report::LINES, samples, who};
use crate::{
    advice::{advise_incident, check_command},
    model::{
        Access, Books, Caller, Container, Entered, Fix, Holder, Incident, IncidentBody, Kind, Operation,
        Outcome, Owner, Parent, Process, Propagation, Reason, Refusals, RefusedOperation, Sharer, Target,
        Text, Through, Timestamp, WayIn,
    },
    text::{
        Command,
        command::pasted,
        fit::{COLUMNS, columns},
        is_deceptive,
    },
};

/// Bytes that a file can be called.
fn text() -> BoxedStrategy<Text> {
    let bytes = prop_oneof![
        4 => "[a-z/.-]{0,12}".prop_map(String::into_bytes),
        2 => "(/[a-z.]{1,20}){0,12}".prop_map(String::into_bytes),
        1 => "\\PC{0,20}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(1_u8.., 0..40),
        1 => proptest::collection::vec(1_u8.., 4095),
        1 => Just("\u{202e}\n\x1b[2J\u{200b}日本".as_bytes().to_vec()),
    ];
    bytes.prop_map(Text::from).boxed()
}

fn string() -> impl Strategy<Value = String> {
    text().prop_map(|text| text.to_str_lossy().into_owned())
}

fn container() -> BoxedStrategy<Container> {
    let names = (
        option(string()),
        string(),
        option(string()),
        option(string()),
        option(string()),
        option(string()),
    );
    (names, option(string()), proptest::collection::vec(text(), 0..4))
        .prop_map(
            |((runtime, id, name, namespace, pod, pod_namespace), owner, host_paths)| Container {
                runtime,
                id,
                name,
                namespace,
                pod,
                pod_namespace,
                owner: owner.map(|owner| Owner {
                    kind: owner.clone(),
                    name: owner,
                    source: String::new(),
                }),
                host_paths,
                ..Container::default()
            },
        )
        .boxed()
}

fn option<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(of)
}

fn process() -> BoxedStrategy<Process> {
    (
        any::<(u32, Option<u32>, Option<u32>)>(),
        text(),
        option(string()),
        option(container()),
        text(),
    )
        .prop_map(
            |((pid, tid, mount_namespace), comm, unit, container, parent)| Process {
                pid,
                tid,
                comm,
                unit,
                container,
                mount_namespace,
                parents: vec![Parent {
                    pid,
                    comm: parent,
                    ..Parent::default()
                }],
                ..Process::default()
            },
        )
        .boxed()
}

fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(Kind::ALL.to_vec())
}

fn holder() -> BoxedStrategy<Holder> {
    let through = proptest::sample::select(vec![
        Through::Target,
        Through::PropagatedCopy,
        Through::PrivateCopy,
    ]);
    (
        (
            kind(),
            proptest::collection::vec(kind(), 0..3),
            any::<(u64, bool, bool, u64)>(),
            through,
        ),
        (
            option(process()),
            option(process()),
            option(any::<u32>()),
            option(proptest::sample::select(Access::ALL.to_vec())),
            option(proptest::sample::select(Propagation::ALL.to_vec())),
            option(string()),
        ),
        (text(), option(text()), option(any::<i64>()), any::<u8>()),
    )
        .prop_map(
            |(
                (kind, also, (refs, deleted, counted, attempts_blocked), through),
                (process, opened_by, fd, access, propagation, reason),
                (path, seen_as, opened, sharers),
            )| Holder {
                kind,
                also,
                refs,
                held_by: seen_as.clone(),
                reason,
                shared_with: (0..sharers % 4)
                    .map(|pid| Sharer {
                        pid: u32::from(pid),
                        comm: path.clone(),
                        fd,
                    })
                    .collect(),
                process,
                fd,
                access,
                path,
                deleted,
                seen_as,
                through,
                counted,
                propagation,
                opened: opened.map(Timestamp::from_nanos),
                entered: through_a_namespace(opened_by.as_ref(), opened),
                opened_by,
                attempts_blocked,
                ..samples::holder()
            },
        )
        .boxed()
}

/// One in two is outside, the other entered the opener's container.
fn through_a_namespace(by: Option<&Process>, opened: Option<i64>) -> Option<Box<Entered>> {
    let by = by?;
    let operation = if by.pid % 2 == 0 {
        WayIn::Outside
    } else {
        WayIn::Setns
    };
    Some(Box::new(Entered {
        time: opened.map(Timestamp::from_nanos),
        operation,
        namespace: u32::MAX,
        from: Some(by.pid),
        container: by.container.clone(),
        by: by.parents.first().cloned(),
    }))
}

fn report() -> BoxedStrategy<Incident> {
    let holders = || proptest::collection::vec(holder(), 0..7);
    let outcome = proptest::sample::select(vec![
        None,
        Some(Outcome::Released),
        Some(Outcome::Detached),
        Some(Outcome::GaveUp),
        Some(Outcome::Gone),
        Some(Outcome::StillBusy),
    ]);
    let counts = any::<(
        Option<u64>,
        u64,
        Option<u64>,
        u64,
        Option<u64>,
        Option<i64>,
        Option<bool>,
    )>();
    (
        (holders(), holders(), holders()),
        (process(), text(), option(container()), option(string())),
        (
            outcome,
            any::<(u64, u64, u64)>(),
            any::<(i64, Option<i64>)>(),
            counts,
        ),
        [(); 2].map(|()| proptest::collection::vec(string(), 0..4)),
    )
        .prop_map(
            |(
                (holders, candidates, bystanders),
                (caller, path, container, fs_type),
                (outcome, (attempts, bursts, lost_events), (started, ended), counts),
                [advice, gaps],
            )| {
                let (counted, explained, unexplained, overexplained, remaining, sampled, changed) = counts;
                let mut of = samples::incident(holders);
                let umount = samples::umount_of(&mut of);
                umount.candidates = candidates;
                umount.refusals = Refusals {
                    attempts,
                    bursts,
                    callers: vec![Caller {
                        pid: 1,
                        comm: caller.comm.clone(),
                        attempts,
                    }],
                };
                of.bystanders = bystanders;
                of.caller = caller;
                of.target.path = path;
                of.target.container = container;
                of.target.fs_type = fs_type;
                of.outcome = outcome;
                of.lost_events = lost_events;
                of.started = Timestamp::from_nanos(started);
                of.ended = ended.map(Timestamp::from_nanos);
                of.references = Books {
                    counted,
                    explained,
                    unexplained,
                    overexplained,
                    remaining,
                    sampled_at: sampled.map(Timestamp::from_nanos),
                    changed_during_snapshot: changed,
                    gaps,
                };
                of.flags = advice;
                advise_incident(&mut of);
                of
            },
        )
        .boxed()
}

fn reason() -> impl Strategy<Value = Reason> {
    proptest::sample::select(vec![
        Reason::MountPoint,
        Reason::MountedThere,
        Reason::OverlayInUse,
        Reason::DeviceInUse,
        Reason::OpenFiles,
        Reason::Unknown,
    ])
}

fn operation() -> impl Strategy<Value = Operation> {
    proptest::sample::select(vec![
        Operation::Rmdir,
        Operation::Mount,
        Operation::Open,
        Operation::DmRemove,
        Operation::LoopClear,
    ])
}

fn check(text: &str, fixes: &[Fix], target: &Target) -> Result<(), TestCaseError> {
    prop_assert!(text.ends_with('\n'));
    let lines: Vec<&str> = text.lines().collect();
    prop_assert!(lines.len() <= LINES, "{} lines:\n{text}", lines.len());
    let known = |line: &str| {
        fixes
            .iter()
            .flat_map(|fix| fix.command.iter().chain(&fix.check))
            // It is there also where nothing can be done.
            .chain(&check_command(target))
            .any(|command| line.trim_start() == command.to_string())
    };
    for line in lines {
        // A command is whole, or not there.
        let whole = line.starts_with("         ") && known(line);
        prop_assert!(
            whole || columns(line) <= COLUMNS,
            "{} columns: {line}",
            columns(line)
        );
        prop_assert!(
            !line.chars().any(|char| char.is_control() || is_deceptive(char)),
            "{line:?}"
        );
    }
    Ok(())
}

proptest! {
    // Every case has up to some hundred long names.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reports_stay_within_their_limits(of in report()) {
        let style = Style { terminal: false, zone: TimeZone::UTC };
        let text = incident(&of, &style);
        check(&text, &of.fixes, &of.target)?;
        // Both are always there.
        prop_assert!(text.contains("; tier fentry\n"), "{text}");
        let lost = format!("; {} lost; ", of.lost_events);
        prop_assert!(text.contains(&lost), "{text}");

        let mut question = samples::who(Vec::new());
        question.candidates = of.candidates().to_vec();
        question.target = of.target;
        question.references = of.references;
        question.holders = of.holders;
        question.bystanders = of.bystanders;
        question.fixes = of.fixes;
        check(&who(&question, &style), &question.fixes, &question.target)?;
    }

    #[test]
    fn advice_is_pasted_as_it_was_meant(of in report(), reason in reason(), operation in operation()) {
        let mut fixes = Vec::new();
        let mut nobody = of.clone();
        nobody.holders.clear();
        samples::umount_of(&mut nobody).candidates.clear();
        let refused = RefusedOperation { operation, reason, refusals: samples::refusals() };
        let bodies = [IncidentBody::Detached, IncidentBody::Operation(refused)];
        let others = bodies.map(|body| Incident { body, ..of.clone() });
        for mut of in [of, nobody].into_iter().chain(others) {
            advise_incident(&mut of);
            fixes.extend(of.fixes);
        }
        let commands: Vec<Command> = fixes
            .into_iter()
            .flat_map(|fix| fix.command.into_iter().chain(fix.check))
            .collect();
        pasted::check(&commands)?;
        // Nothing of a container's image is run: its namespace is entered by the host's umount alone.
        let entered = |command: &Command| {
            let words = command.arguments();
            words[0] == "nsenter" && words.iter().any(|word| word == "-m" || word == "-a" || word.starts_with("-r"))
        };
        prop_assert!(!commands.iter().any(entered), "{commands:?}");
    }
}
