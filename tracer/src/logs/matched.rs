//! Which incident explains which log line.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{BusyError, LogLine, plain};
use crate::{
    identity::{MountOwner, mount_claim},
    model::{Incident, IncidentOperation, Operation, Target, Text, Timestamp},
};

/// A log may have coarser times than ebusy, of another clock.
const BEFORE: i64 = 2_000_000_000;
/// A runtime says that it failed after its last attempt: the shim's answer may take 10 s
/// (containerd, `cmd/containerd-shim-runc-v2/process/init.go`).
const AFTER: i64 = 12_000_000_000;
/// Incidents before and after a line that are looked at, of those about the same.
const NEAR_MAX: usize = 64;

/// A log line and the incident that explains it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match<'a> {
    /// The line.
    pub line: &'a LogLine,
    /// The `id` of the incident.
    pub incident: Option<u64>,
    /// What they have in common: `path`, `container`, `pod`; `time` where the line has one.
    pub by: Vec<&'static str>,
    /// Why there is none.
    pub not_seen: Option<NotSeen>,
}

/// Why a line has no incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotSeen {
    /// The line does not say what was busy.
    NoTarget,
    /// No incident is about that target.
    NoIncident,
    /// Incidents are about that target, but at other times.
    OtherTime,
}

impl NotSeen {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NoTarget => "the line does not say what was busy",
            Self::NoIncident => "no refusal of that target was seen",
            Self::OtherTime => "refusals of that target were seen, but at other times",
        }
    }
}

/// Matches every line with the incident that explains it. Lines of one back-off have the same incident, as long as its
/// attempts are one.
#[must_use]
pub fn matched<'a>(lines: &'a [LogLine], incidents: &[Incident]) -> Vec<Match<'a>> {
    let index = Index::new(incidents);
    lines
        .iter()
        .map(|line| match index.read(line) {
            Some(read) => of_line(line, &index.about(&read)),
            None => of_line(line, &index.about(line)),
        })
        .collect()
}

/// What a line and a target can have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Common<'i> {
    Path(String),
    Source(&'i Text),
    Owner(MountOwner),
    Container(&'i str),
    Pod(&'i str, &'i str),
}

/// Incidents by what lines can have in common with them, in order of time: lines times incidents is too much.
struct Index<'i> {
    all: HashMap<Common<'i>, Vec<&'i Incident>>,
}

impl<'i> Index<'i> {
    fn new(incidents: &'i [Incident]) -> Self {
        let mut all: HashMap<Common<'i>, Vec<&'i Incident>> = HashMap::new();
        for incident in incidents {
            for common in Common::of_target(&incident.target) {
                all.entry(common).or_default().push(incident);
            }
        }
        for found in all.values_mut() {
            found.sort_by_key(|incident| incident.started);
        }
        Self { all }
    }

    /// The line with the path that there is an incident of, where that is another one than the grammar says.
    fn read(&self, line: &LogLine) -> Option<LogLine> {
        let known = line.known(|path| {
            let path = String::from_utf8_lossy(path).into_owned();
            self.all.contains_key(&Common::Path(path)).then_some(())
        })?;
        Some(LogLine {
            target: Some(known.path.into()),
            ..line.clone()
        })
    }

    /// The incidents that are about what the line is about, with what they have in common: of many the nearest.
    fn about(&self, line: &LogLine) -> Vec<(&'i Incident, Vec<&'static str>)> {
        let mut seen = HashSet::new();
        let mut about = Vec::new();
        for common in Common::of_line(line) {
            let found = self.all.get(&common).map_or(&[][..], Vec::as_slice);
            let at = line.time.map_or(found.len(), |time| {
                found.partition_point(|incident| incident.started <= time)
            });
            let near = at.saturating_sub(NEAR_MAX)..found.len().min(at.saturating_add(NEAR_MAX));
            for incident in found.get(near).unwrap_or_default() {
                if seen.insert(std::ptr::from_ref::<Incident>(incident)) {
                    about.extend(in_common(line, &incident.target).map(|by| (*incident, by)));
                }
            }
        }
        about
    }
}

impl<'i> Common<'i> {
    fn of_target(target: &'i Target) -> Vec<Self> {
        let mut all = vec![Self::Path(shown(&target.path))];
        all.extend(target.source.as_ref().map(Self::Source));
        all.extend(owner(&target.path).map(Self::Owner));
        if let Some(container) = &target.container {
            all.push(Self::Container(&container.id));
            let pod = container.pod.as_deref().zip(container.pod_namespace.as_deref());
            all.extend(pod.map(|(pod, namespace)| Self::Pod(pod, namespace)));
        }
        all
    }

    fn of_line(line: &'i LogLine) -> Vec<Self> {
        if let Some(path) = &line.target {
            let mut all = vec![Self::Path(shown(path)), Self::Source(path)];
            all.extend(owner(path).map(Self::Owner));
            return all;
        }
        let containers = line.container_id.iter().chain(&line.other_ids);
        let pod = line.pod.as_deref().zip(line.pod_namespace.as_deref());
        let uid = line
            .pod_uid
            .clone()
            .map(|uid| Self::Owner(MountOwner::Pod { uid }));
        containers
            .map(|id| Self::Container(id))
            .chain(pod.map(|(pod, namespace)| Self::Pod(pod, namespace)))
            .chain(uid)
            .collect()
    }
}

fn of_line<'a>(line: &'a LogLine, about: &[(&Incident, Vec<&'static str>)]) -> Match<'a> {
    let best = about
        .iter()
        .filter_map(|(incident, by)| Some((away(line, incident)?, incident, by)))
        // The nearest in time; among those the one of the same path, of the same operation, and the latest.
        .min_by_key(|(away, incident, by)| {
            let path = by.contains(&"path");
            let same = operation(line.error).is_none_or(|operation| operation == incident.body.operation());
            (*away, !path, !same, std::cmp::Reverse(incident.started))
        });
    let not_seen = match (&best, about.is_empty()) {
        (Some(_), _) => None,
        (None, false) => Some(NotSeen::OtherTime),
        (None, true) if line.target.is_none() && line.container_id.is_none() && line.pod.is_none() => {
            Some(NotSeen::NoTarget)
        }
        (None, true) => Some(NotSeen::NoIncident),
    };
    Match {
        line,
        incident: best.as_ref().map(|(_, incident, _)| incident.id),
        by: best.map_or_else(Vec::new, |(_, _, by)| {
            by.iter().copied().chain(line.time.map(|_| "time")).collect()
        }),
        not_seen,
    }
}

/// What the call that failed was, where the line says so.
fn operation(error: BusyError) -> Option<IncidentOperation> {
    match error {
        BusyError::Umount | BusyError::UmountFailed => Some(IncidentOperation::Umount),
        BusyError::Mount | BusyError::OverlayInUse => Some(IncidentOperation::Other(Operation::Mount)),
        _ => None,
    }
}

/// How far from the incident's time the line is, in nanoseconds; `None` if too far.
fn away(line: &LogLine, incident: &Incident) -> Option<i64> {
    let Some(time) = line.time.map(Timestamp::as_nanos) else {
        return Some(0);
    };
    let start = incident.started.as_nanos();
    let end = incident
        .ended
        .map_or(i64::MAX, |ended| ended.as_nanos().max(start));
    if time < start {
        let early = start.saturating_sub(time);
        (early <= BEFORE).then_some(early)
    } else {
        let late = time.saturating_sub(end).max(0);
        (late <= AFTER).then_some(late)
    }
}

impl LogLine {
    /// Whether it tells of an umount that failed.
    #[must_use]
    pub fn is_failed_umount(&self) -> bool {
        matches!(self.error, BusyError::Umount | BusyError::UmountFailed)
    }

    /// When an umount of that mount had failed by this line. Only of a mount whose path has the id of its container or
    /// pod: at another path something else may have been mounted then.
    #[must_use]
    pub fn failed_by(&self, target: &Target) -> Option<Timestamp> {
        mount_claim(target.path.as_bytes())?.owner?;
        (self.is_failed_umount() && in_common(self, target).is_some())
            .then_some(self.time)
            .flatten()
    }
}

/// By what a line is about a target.
fn in_common(line: &LogLine, target: &Target) -> Option<Vec<&'static str>> {
    let mut by = Vec::new();
    if let Some(path) = &line.target {
        if same_path(path, &target.path) || target.source.as_ref().is_some_and(|source| source == path) {
            by.push("path");
        } else if !related(path, &target.path) {
            return None;
        }
    }
    let container = target.container.as_ref();
    let same = |id: &String| container.is_some_and(|of| !of.id.is_empty() && of.id == *id);
    if line.container_id.iter().chain(&line.other_ids).any(same) {
        by.push("container");
    }
    let pod = container.and_then(|of| Some((of.pod.as_deref()?, of.pod_namespace.as_deref()?)));
    let of_pod = || {
        owner(&target.path).and_then(|owner| match owner {
            MountOwner::Pod { uid } => Some(uid),
            _ => None,
        })
    };
    if pod.is_some() && pod == line.pod.as_deref().zip(line.pod_namespace.as_deref())
        || line.pod_uid.is_some() && line.pod_uid == of_pod()
    {
        by.push("pod");
    }
    (!by.is_empty()).then_some(by)
}

/// A path as others write it. JSON may have lost bytes that are no UTF-8: so they are compared as it shows them.
fn shown(path: &Text) -> String {
    let path = plain(path.as_bytes());
    let path = String::from_utf8_lossy(&path);
    path.trim_end_matches('/').to_owned()
}

/// Whose a path is.
fn owner(path: &Text) -> Option<MountOwner> {
    mount_claim(path.as_bytes())?.owner
}

fn same_path(one: &Text, other: &Text) -> bool {
    shown(one) == shown(other)
}

/// Two mounts of one owner, or two views of one path: what is busy inside a root file system is told of that (containerd
/// drops the errors of all mounts but the last, `core/mount/mount_unix.go` `UnmountRecursive`).
fn related(one: &Text, other: &Text) -> bool {
    let (one, other) = (owner(one), owner(other));
    one.is_some() && one == other
}

#[cfg(test)]
mod tests {
    use super::{BusyError, Match, NotSeen, matched};
    use crate::{
        logs::{LogLine, samples},
        model::samples as reports,
        model::{Container, Incident, Outcome, Target, Timestamp},
    };

    /// From 03:43:17.000 of 2023-11-14 and 22 h on: 50 attempts in 2.46 s, closed 30 s after the last.
    fn incident(id: u64, millis: i64) -> Incident {
        Incident {
            id,
            started: reports::at(millis),
            ended: Some(reports::at(millis + 32_000)),
            outcome: Some(Outcome::GaveUp),
            ..reports::incident(Vec::new())
        }
    }

    fn line(time: Option<Timestamp>) -> LogLine {
        let path = reports::target().path;
        let mut line = samples::one(&format!(
            "failed to unmount target {}: device or resource busy",
            path.to_str_lossy()
        ));
        line.time = time;
        line
    }

    fn brief<'a>(found: &'a Match<'_>) -> (Option<u64>, &'a [&'static str], Option<NotSeen>) {
        (found.incident, &found.by, found.not_seen)
    }

    #[test]
    fn a_line_says_by_when_an_umount_of_a_container_had_failed() {
        let time = Some(reports::at(2_500));
        let target = reports::target();
        assert_eq!(line(time).failed_by(&target), time);
        assert_eq!(line(None).failed_by(&target), None);
        let mut removal = line(time);
        removal.error = BusyError::Remove;
        assert_eq!(removal.failed_by(&target), None);
        // Something else may have been mounted there then.
        let path = "/mnt/data";
        let mut plain = samples::one(&format!("umount: {path}: target is busy."));
        plain.time = time;
        let target = Target {
            path: path.into(),
            ..Target::default()
        };
        assert_eq!(plain.failed_by(&target), None);
    }

    /// However many incidents a target has had: the one that a line is of is found among those near it.
    #[test]
    fn of_many_incidents_of_one_target_the_nearest_is_found() {
        let incidents: Vec<Incident> = (0..2000).map(|id| incident(id, id as i64 * 64_000)).collect();
        let lines: Vec<LogLine> = (0..2000)
            .step_by(100)
            .map(|id| line(Some(reports::at(id * 64_000 + 2_500))))
            .collect();
        let found = matched(&lines, &incidents);
        let ids: Vec<Option<u64>> = found.iter().map(|of| of.incident).collect();
        let expected: Vec<Option<u64>> = (0..2000).step_by(100).map(Some).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn lines_of_a_back_off_go_to_the_bursts_that_they_speak_of() {
        let incidents = [incident(1, 0), incident(2, 64_000), incident(3, 300_000)];
        let times = [2_500, 4_500, 9_000, 66_500, 302_500, 200_000];
        let mut lines: Vec<LogLine> = times.iter().map(|at| line(Some(reports::at(*at)))).collect();
        lines.push(line(None));
        let found = matched(&lines, &incidents);
        let ids: Vec<Option<u64>> = found.iter().map(|of| of.incident).collect();
        // Without a time, the latest.
        assert_eq!(ids, [Some(1), Some(1), Some(1), Some(2), Some(3), None, Some(3)]);
        assert_eq!(
            brief(&found[0]),
            (Some(1), &["path", "container", "time"][..], None)
        );
        assert_eq!(brief(&found[5]), (None, &[][..], Some(NotSeen::OtherTime)));
        assert_eq!(found[6].by, ["path", "container"]);
    }

    #[test]
    fn a_clock_that_is_coarse_and_a_shim_that_is_slow() {
        let incidents = [incident(1, 500)];
        let at = |millis| matched(&[line(Some(reports::at(millis)))], &incidents)[0].incident;
        assert_eq!(at(0), Some(1));
        assert_eq!(at(-2_000), None);
        assert_eq!(at(32_500 + 11_000), Some(1));
        assert_eq!(at(32_500 + 13_000), None);
    }

    #[test]
    fn by_container_pod_and_the_view_of_the_path() {
        let incidents = [incident(1, 0)];
        let path = reports::target().path.to_str_lossy().into_owned();
        let of = |log: &str| {
            let line = samples::one(log);
            let found = matched(std::slice::from_ref(&line), &incidents);
            (found[0].incident, found[0].by.clone(), found[0].not_seen)
        };
        let id = reports::target().container.unwrap().id;
        assert_eq!(
            of(&format!("umount: /var{path}/: target is busy")),
            (Some(1), vec!["path", "container"], None)
        );
        // A mount inside is told of by the root file system.
        assert_eq!(
            of(&format!("umount: {path}/data: target is busy")),
            (Some(1), vec!["container"], None)
        );
        assert_eq!(
            of(&format!("container_id:\"{id}\" device or resource busy")),
            (Some(1), vec!["container"], None)
        );
        assert_eq!(
            of(r#"err="device or resource busy" pod="ci/wf-build-7h2kq""#),
            (Some(1), vec!["pod"], None)
        );
        assert_eq!(
            of("umount: /mnt/x: target is busy"),
            (None, vec![], Some(NotSeen::NoIncident))
        );
        assert_eq!(
            of("Device or resource busy"),
            (None, vec![], Some(NotSeen::NoTarget))
        );
    }

    #[test]
    fn the_path_counts_before_the_container() {
        let shm = Incident {
            target: Target {
                path: "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/x/shm".into(),
                container: Some(Container {
                    id: reports::target().container.unwrap().id,
                    ..Container::default()
                }),
                ..reports::target()
            },
            ..incident(7, 0)
        };
        let lines = [line(Some(reports::at(1_000)))];
        assert_eq!(matched(&lines, &[shm, incident(1, 0)])[0].incident, Some(1));
    }
}
