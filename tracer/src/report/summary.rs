//! A long capture in one page: who holds, what is held, when, and who does it again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use jiff::{Timestamp as JiffTimestamp, civil::Date, tz::TimeZone};
use serde::Serialize;

use super::{Finding, Seen, workload};
use crate::model::{Incident, Timestamp};

const HOUR: i64 = 3_600_000_000_000;
/// Different holders, targets, hours and recurrences that are counted one by one; what is beyond is in the sums only.
const KEYS_MAX: usize = 10_000;
/// Targets of one holder on one day that are told apart.
const TARGETS_MAX: usize = 10_000;
/// Entries of each list that are told.
const TOP: usize = 10;
/// Hours that are told, the latest ones.
const HOURS: usize = 24 * 14;

/// What is counted of something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Count {
    /// What.
    pub name: String,
    /// Incidents that it is in.
    pub incidents: u64,
    /// Refused attempts: of a target; of a holder those that it blocked.
    pub attempts: u64,
}

/// An hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Hour {
    /// Its begin.
    pub hour: Timestamp,
    /// Refused attempts in it.
    pub attempts: u64,
}

/// Somebody who blocked several targets on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Recurrence {
    /// The holder's workload.
    pub holder: String,
    /// The day, in the time zone of the report.
    pub day: String,
    /// Different targets.
    pub targets: u64,
    /// Begin of the first incident.
    pub first: Timestamp,
    /// Begin of the last one.
    pub last: Timestamp,
}

/// The sums of a capture: `ebusy.summary/1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// Its name and version.
    pub schema: String,
    /// Time of the first record.
    pub from: Option<Timestamp>,
    /// Time of the last record.
    pub to: Option<Timestamp>,
    /// Records.
    pub records: u64,
    /// Runs of ebusy.
    pub runs: u64,
    /// Incidents in the capture, whether wanted or not.
    pub incidents_in_all: u64,
    /// Wanted incidents, which everything below is of.
    pub incidents: u64,
    /// Refused attempts.
    pub attempts: u64,
    /// Incidents with books that leave nothing unexplained.
    pub explained: u64,
    /// The most that an incident reported as lost.
    pub lost_events: u64,
    /// Incidents by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Incidents by kind of reference.
    pub kinds: BTreeMap<String, u64>,
    /// Who blocked most attempts.
    pub holders: Vec<Count>,
    /// What was refused most often.
    pub targets: Vec<Count>,
    /// Attempts by hour; hours without one are left out.
    pub hours: Vec<Hour>,
    /// Who blocked several targets on one day.
    pub recurrences: Vec<Recurrence>,
    /// Damage of the capture, with file and offset.
    pub damage: Vec<String>,
}

#[derive(Debug)]
struct Again {
    targets: HashSet<u64>,
    first: Timestamp,
    last: Timestamp,
}

/// Sums under way; bounded whatever the capture has.
#[derive(Debug)]
pub struct Tally {
    zone: TimeZone,
    summary: Summary,
    holders: HashMap<String, Count>,
    targets: HashMap<String, Count>,
    hours: BTreeMap<i64, u64>,
    again: BTreeMap<(Date, String), Again>,
}

impl Tally {
    /// Nothing yet; days are those of this time zone.
    #[must_use]
    pub fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            summary: Summary {
                schema: Summary::SCHEMA.to_owned(),
                ..Summary::default()
            },
            holders: HashMap::new(),
            targets: HashMap::new(),
            hours: BTreeMap::new(),
            again: BTreeMap::new(),
        }
    }

    /// Counts a wanted incident; says whose how many-th target of the day it is, where it is not the first.
    pub fn add(&mut self, finding: &Finding) -> Vec<(u64, String)> {
        let Finding { incident, timeline } = finding;
        let summary = &mut self.summary;
        summary.incidents += 1;
        summary.attempts += incident.attempts();
        summary.explained += u64::from(incident.references.unexplained == Some(0));
        summary.lost_events = summary.lost_events.max(incident.lost_events);
        let outcome = incident.outcome.map_or("open", |outcome| outcome.name());
        *summary.outcomes.entry(outcome.to_owned()).or_default() += 1;
        let kinds: BTreeSet<&str> = incident.holders.iter().map(|holder| holder.kind.name()).collect();
        for kind in kinds {
            *summary.kinds.entry(kind.to_owned()).or_default() += 1;
        }
        let mut blocked: BTreeMap<String, u64> = BTreeMap::new();
        for holder in &incident.holders {
            let most = blocked.entry(workload::of_holder(holder)).or_default();
            *most = holder.attempts_blocked.max(*most);
        }
        for (name, attempts) in &blocked {
            count(&mut self.holders, name, *attempts);
        }
        count(
            &mut self.targets,
            &workload::of_target(&incident.target),
            incident.attempts(),
        );
        for attempt in &timeline.attempts {
            let hour = attempt.returned.as_nanos().div_euclid(HOUR);
            if self.hours.len() < KEYS_MAX || self.hours.contains_key(&hour) {
                *self.hours.entry(hour).or_default() += 1;
            }
        }
        let again = blocked
            .into_keys()
            .filter_map(|holder| self.again(incident, holder));
        again.collect()
    }

    fn again(&mut self, incident: &Incident, holder: String) -> Option<(u64, String)> {
        let key = (day(incident.started, &self.zone), holder);
        if self.again.len() >= KEYS_MAX && !self.again.contains_key(&key) {
            return None;
        }
        let name = key.1.clone();
        let again = self.again.entry(key).or_insert_with(|| Again {
            targets: HashSet::new(),
            first: incident.started,
            last: incident.started,
        });
        let mut hasher = DefaultHasher::new();
        (&incident.target.path, incident.target.mount_namespace).hash(&mut hasher);
        let new = again.targets.len() < TARGETS_MAX && again.targets.insert(hasher.finish());
        again.last = again.last.max(incident.started);
        let targets = again.targets.len() as u64;
        (new && targets > 1).then_some((targets, name))
    }

    /// The sums.
    #[must_use]
    pub fn finish(self, seen: &Seen, damage: Vec<String>) -> Summary {
        let mut recurrences: Vec<Recurrence> = self
            .again
            .into_iter()
            .filter(|(_, again)| again.targets.len() > 1)
            .map(|((day, holder), again)| Recurrence {
                holder,
                day: day.to_string(),
                targets: again.targets.len() as u64,
                first: again.first,
                last: again.last,
            })
            .collect();
        recurrences.sort_by(|a, b| b.targets.cmp(&a.targets).then_with(|| a.first.cmp(&b.first)));
        recurrences.truncate(TOP);
        let hours = self.hours.into_iter().rev().take(HOURS);
        let mut hours: Vec<Hour> = hours
            .map(|(hour, attempts)| Hour {
                hour: Timestamp::from_nanos(hour.saturating_mul(HOUR)),
                attempts,
            })
            .collect();
        hours.reverse();
        Summary {
            from: seen.first,
            to: seen.last,
            records: seen.records,
            runs: seen.runs,
            incidents_in_all: seen.incidents,
            holders: top(self.holders),
            targets: top(self.targets),
            hours,
            recurrences,
            damage,
            ..self.summary
        }
    }
}

impl Summary {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.summary/1";
}

fn count(counts: &mut HashMap<String, Count>, name: &str, attempts: u64) {
    if counts.len() >= KEYS_MAX && !counts.contains_key(name) {
        return;
    }
    let count = counts.entry(name.to_owned()).or_insert_with(|| Count {
        name: name.to_owned(),
        ..Count::default()
    });
    count.incidents += 1;
    count.attempts += attempts;
}

/// Those with most attempts first.
fn top(counts: HashMap<String, Count>) -> Vec<Count> {
    let mut counts: Vec<Count> = counts.into_values().collect();
    counts.sort_by(|a, b| {
        let key = |count: &Count| (u64::MAX - count.attempts, u64::MAX - count.incidents);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    counts.truncate(TOP);
    counts
}

fn day(time: Timestamp, zone: &TimeZone) -> Date {
    let time = JiffTimestamp::from_nanosecond(i128::from(time.as_nanos())).unwrap_or_default();
    time.to_zoned(zone.clone()).date()
}
