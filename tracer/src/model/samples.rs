//! Reports for tests, without advice.

use super::{
    Access, Books, Caller, Container, EvidenceSource, Fix, Holder, Incident, IncidentBody, Kind, Outcome,
    Owner, Process, Propagation, Refusals, RefusedUmount, Target, Text, Through, Tier, Timestamp, Who,
};

const ID: &str = "9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5";
const TASK: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// 03:43:17 of some day, and as many milliseconds more.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_nanos((1_700_019_797_000 + millis) * 1_000_000)
}

pub(crate) fn target() -> Target {
    Target {
        path: format!("{TASK}/{ID}/rootfs").into(),
        path_base64: None,
        mount_id: Some(812),
        fs_type: Some("overlay".into()),
        source: Some("overlay".into()),
        device: Some("0:52".into()),
        mount_namespace: Some(4_026_531_841),
        propagation: Some(Propagation::Shared),
        container: Some(Container {
            runtime: Some("containerd".into()),
            id: ID.into(),
            name: Some("main".into()),
            namespace: Some("k8s.io".into()),
            pod: Some("wf-build-7h2kq".into()),
            pod_namespace: Some("ci".into()),
            ..Container::default()
        }),
    }
}

pub(crate) fn agent() -> Process {
    Process {
        pid: 48_211,
        tid: Some(48_211),
        comm: "node-agent".into(),
        mount_namespace: Some(4_026_533_012),
        container: Some(Container {
            runtime: Some("containerd".into()),
            id: "77".repeat(32),
            name: Some("agent".into()),
            namespace: Some("k8s.io".into()),
            pod: Some("node-agent-x7k2p".into()),
            pod_namespace: Some("monitoring".into()),
            owner: Some(Owner {
                kind: "DaemonSet".into(),
                name: "node-agent".into(),
                source: "pod labels".into(),
            }),
            host_paths: vec!["/etc/machine-id".into(), "/".into()],
            ..Container::default()
        }),
        ..Process::default()
    }
}

pub(crate) fn holder() -> Holder {
    Holder {
        kind: Kind::Fd,
        also: Vec::new(),
        refs: 2,
        process: Some(agent()),
        fd: Some(37),
        access: Some(Access::Read),
        shared_with: Vec::new(),
        path: "/var/log/app.log".into(),
        held_by: None,
        reason: None,
        path_base64: None,
        deleted: false,
        seen_as: Some(format!("/host{TASK}/{ID}/rootfs/var/log/app.log").into()),
        seen_as_base64: None,
        mount_id: Some(990),
        mount_namespace: Some(4_026_533_012),
        through: Through::PropagatedCopy,
        counted: true,
        propagation: Some(Propagation::Slave),
        opened: Some(at(-2_466_000)),
        opened_by: Some(Process {
            tid: Some(48_230),
            ..agent()
        }),
        entered: None,
        attempts_blocked: 50,
        evidence: vec![EvidenceSource::History, EvidenceSource::Snapshot],
        takes_along: None,
    }
}

pub(crate) fn plain(pid: u32, comm: &str, kind: Kind, path: &str) -> Holder {
    Holder {
        kind,
        refs: 1,
        process: Some(Process {
            pid,
            tid: Some(pid),
            comm: Text::from(comm),
            ..Process::default()
        }),
        fd: (kind == Kind::Fd).then_some(3),
        path: path.into(),
        seen_as: Some(format!("{TASK}/{ID}/rootfs{path}").into()),
        mount_namespace: target().mount_namespace,
        through: Through::Target,
        propagation: None,
        opened: None,
        opened_by: None,
        evidence: vec![EvidenceSource::Snapshot],
        takes_along: None,
        ..holder()
    }
}

/// What people read of advice, one a line: words, then the command.
pub(crate) fn read(fixes: &[Fix]) -> Vec<String> {
    let line = |fix: &Fix| match &fix.command {
        Some(command) => format!("{} {command}", fix.words()),
        None => fix.words(),
    };
    fixes.iter().filter(|fix| fix.is_for_people()).map(line).collect()
}

pub(crate) fn books(counted: u64, explained: u64) -> Books {
    Books {
        counted: Some(counted),
        explained,
        unexplained: Some(counted.saturating_sub(explained)),
        overexplained: explained.saturating_sub(counted),
        remaining: Some(0),
        sampled_at: Some(at(2_463)),
        changed_during_snapshot: Some(false),
        gaps: Vec::new(),
    }
}

pub(crate) fn refusals() -> Refusals {
    Refusals {
        attempts: 50,
        bursts: 1,
        callers: vec![Caller {
            pid: 19_871,
            comm: "containerd-shim".into(),
            attempts: 50,
        }],
    }
}

/// What only a refused umount has.
pub(crate) fn umount_of(incident: &mut Incident) -> &mut RefusedUmount {
    match &mut incident.body {
        IncidentBody::Umount(umount) => umount,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn incident(holders: Vec<Holder>) -> Incident {
    let refs = holders
        .iter()
        .fold(0, |sum: u64, holder| sum.saturating_add(holder.refs));
    Incident {
        schema: Incident::SCHEMA.into(),
        id: 1,
        body: IncidentBody::Umount(RefusedUmount {
            of_own_root: false,
            refusals: refusals(),
            candidates: Vec::new(),
            since: None,
            retry: None,
        }),
        started: at(0),
        ended: Some(at(32_463)),
        outcome: Some(Outcome::GaveUp),
        flags: Vec::new(),
        caller: Process {
            pid: 19_871,
            comm: "containerd-shim".into(),
            ..Process::default()
        },
        fixes: Vec::new(),
        target: target(),
        references: books(refs, refs),
        holders,
        bystanders: Vec::new(),
        probe: Tier::Fentry,
        lost_events: 0,
        noise: Vec::new(),
        source: 0,
    }
}

pub(crate) fn who(holders: Vec<Holder>) -> Who {
    let refs = holders
        .iter()
        .fold(0, |sum: u64, holder| sum.saturating_add(holder.refs));
    Who {
        schema: Who::SCHEMA.into(),
        time: at(0),
        leftover: false,
        target: target(),
        references: books(refs, refs),
        fixes: Vec::new(),
        holders,
        candidates: Vec::new(),
        bystanders: Vec::new(),
        probe: Tier::Tracepoint,
        since: None,
    }
}
