//! Which incidents are wanted.

use std::str::FromStr;

use globset::{Glob, GlobMatcher};
use jiff::{SpanRelativeTo, Timestamp as JiffTimestamp, civil::DateTime};

use super::workload;
use crate::model::{Container, Holder, Incident, Kind, Outcome, Timestamp, zone};

/// A point in time as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So many nanoseconds before the end of the capture.
    BeforeEnd(i64),
    /// At that time.
    At(Timestamp),
}

impl When {
    /// The time, given the end of the capture.
    #[must_use]
    pub fn resolve(self, end: Option<Timestamp>) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::BeforeEnd(nanos) => Some(Timestamp::from_nanos(end?.as_nanos().saturating_sub(nanos))),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = |time: JiffTimestamp| {
            let nanos = i64::try_from(time.as_nanosecond()).map_err(|_| "is out of range".to_owned())?;
            Ok(Self::At(Timestamp::from_nanos(nanos)))
        };
        if let Ok(time) = text.parse::<JiffTimestamp>() {
            return at(time);
        }
        if let Ok(time) = text.parse::<DateTime>() {
            let zoned = time.to_zoned(zone()).map_err(|error| error.to_string())?;
            return at(zoned.timestamp());
        }
        let length = text
            .parse::<jiff::Span>()
            .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
            .map_err(|_| {
                "is no time; say 2h, 30min, 3d (before the end of the capture), 2026-11-24T10:00 or \
                 2026-11-24T10:00:00Z"
                    .to_owned()
            })?;
        i64::try_from(length.as_nanos().abs())
            .map(Self::BeforeEnd)
            .map_err(|_| "is too long".to_owned())
    }
}

/// Wanted incidents; empty lists want all. Of one list one entry has to match, and all lists have to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// This one alone.
    pub id: Option<u64>,
    /// Those that had not ended by then.
    pub since: Option<Timestamp>,
    /// Those that had begun by then.
    pub until: Option<Timestamp>,
    /// Globs on the target's path.
    pub targets: Vec<GlobMatcher>,
    /// Container of the target: beginning of its id, or a glob on its name, POD or NAMESPACE/POD.
    pub containers: Vec<(String, GlobMatcher)>,
    /// A holder: its pid, or a glob on its command name, container, POD, NAMESPACE/POD or workload.
    pub holders: Vec<(String, GlobMatcher)>,
    /// Outcomes.
    pub outcomes: Vec<Outcome>,
    /// Kinds of reference that a holder has.
    pub kinds: Vec<Kind>,
}

/// A glob; `*` matches slashes as well, as it does in `--target` of `watch`.
pub fn glob(text: &str) -> Result<GlobMatcher, String> {
    Glob::new(text)
        .map(|glob| glob.compile_matcher())
        .map_err(|error| format!("{text}: {}; quote the glob", error.kind()))
}

impl Filter {
    /// Whether it wants everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.targets.is_empty()
            && self.containers.is_empty()
            && self.holders.is_empty()
            && self.outcomes.is_empty()
            && self.kinds.is_empty()
    }

    /// Whether this incident is wanted.
    #[must_use]
    pub fn wants(&self, incident: &Incident) -> bool {
        let any = |holder: &dyn Fn(&Holder) -> bool| {
            incident.holders.iter().chain(incident.candidates()).any(holder)
        };
        let path = String::from_utf8_lossy(incident.target.path.as_bytes());
        self.id.is_none_or(|id| incident.id == id)
            && self
                .since
                .is_none_or(|since| incident.ended.is_none_or(|ended| ended >= since))
            && self.until.is_none_or(|until| incident.started <= until)
            && (self.targets.is_empty() || self.targets.iter().any(|glob| glob.is_match(path.as_ref())))
            && (self.containers.is_empty()
                || incident.target.container.as_ref().is_some_and(|of| {
                    self.containers
                        .iter()
                        .any(|(text, glob)| of.id.starts_with(text.as_str()) || is_container(of, glob))
                }))
            && (self.holders.is_empty()
                || any(&|holder| {
                    self.holders
                        .iter()
                        .any(|(text, glob)| is_holder(holder, text, glob))
                }))
            && (self.outcomes.is_empty()
                || incident
                    .outcome
                    .is_some_and(|outcome| self.outcomes.contains(&outcome)))
            && (self.kinds.is_empty()
                || any(&|holder| {
                    self.kinds.contains(&holder.kind)
                        || holder.also.iter().any(|kind| self.kinds.contains(kind))
                }))
    }
}

fn is_container(of: &Container, glob: &GlobMatcher) -> bool {
    let names = [of.name.as_deref(), of.pod.as_deref(), Some(of.id.as_str())];
    let whole = of
        .pod
        .as_ref()
        .zip(of.pod_namespace.as_ref())
        .map(|(pod, namespace)| format!("{namespace}/{pod}"));
    names
        .into_iter()
        .flatten()
        .chain(whole.as_deref())
        .any(|name| glob.is_match(name))
}

fn is_holder(holder: &Holder, text: &str, glob: &GlobMatcher) -> bool {
    if let Ok(pid) = text.parse::<u32>() {
        let own = holder.process.as_ref().is_some_and(|process| process.pid == pid);
        return own || holder.shared_with.iter().any(|sharer| sharer.pid == pid);
    }
    let sharer = |comm: &[u8]| glob.is_match(String::from_utf8_lossy(comm).as_ref());
    let process = holder.process.as_ref().is_some_and(|process| {
        sharer(process.comm.as_bytes())
            || process.unit.as_ref().is_some_and(|unit| glob.is_match(unit))
            || process.container.as_ref().is_some_and(|of| {
                is_container(of, glob) || of.owner.as_ref().is_some_and(|owner| glob.is_match(&owner.name))
            })
    });
    process
        || glob.is_match(workload::of_holder(holder))
        || holder
            .shared_with
            .iter()
            .any(|sharing| sharer(sharing.comm.as_bytes()))
}
