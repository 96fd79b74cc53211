//! The analysis of a capture: records in, closed incidents with their times out.

use crate::{
    identity::BootClock,
    incident::{Analyzer, Output, Timeline},
    model::{Incident, Tier, Timestamp},
    stream::Record,
};

/// A closed incident.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What is reported of it.
    pub incident: Incident,
    /// Its times.
    pub timeline: Timeline,
}

/// What a capture was seen to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Records.
    pub records: u64,
    /// Time of the first one that has one.
    pub first: Option<Timestamp>,
    /// Time of the latest.
    pub last: Option<Timestamp>,
    /// Runs of ebusy.
    pub runs: u64,
    /// Kernel release of the last run.
    pub kernel: Option<String>,
    /// Probe tier of the last run.
    pub tier: Option<Tier>,
    /// Incidents, whether chosen or not.
    pub incidents: u64,
    /// Whether the last run said that it ended.
    pub ended: bool,
}

/// An analysis under way. Its memory does not grow with the capture: incidents are given away as they close.
#[derive(Debug, Default)]
pub struct Analysis {
    analyzer: Option<Analyzer>,
    clock: Option<BootClock>,
    /// Boot clock of the last record, ns.
    latest: u64,
    seen: Seen,
}

impl Analysis {
    /// Takes the next record; the first one must be a start.
    pub fn push(&mut self, record: Record) -> Vec<Finding> {
        self.seen.records += 1;
        self.seen.ended = matches!(record, Record::End { .. });
        if let Record::Start(start) = &record {
            self.clock = Some(start.clock);
            self.seen.kernel = Some(start.kernel.clone());
            self.seen.tier = Some(start.tier);
            self.seen.runs += 1;
        }
        if let (Some(clock), Some(time)) = (self.clock, record.time()) {
            self.latest = time;
            let time = clock.timestamp(time);
            self.seen.first.get_or_insert(time);
            self.seen.last = self.seen.last.max(Some(time));
        }
        let output = match (&mut self.analyzer, record) {
            (None, Record::Start(start)) => {
                self.analyzer = Some(Analyzer::new(start).with_timelines());
                Vec::new()
            }
            (None, _) => Vec::new(),
            (Some(analyzer), record) => analyzer.push(record),
        };
        self.closed(output)
    }

    /// Ends what is still open where the capture does not say that it ended: it was cut, or goes on.
    pub fn finish(&mut self) -> Vec<Finding> {
        let time = self.latest;
        let output = match &mut self.analyzer {
            Some(analyzer) if !self.seen.ended => analyzer.push(Record::End { time }),
            _ => Vec::new(),
        };
        self.closed(output)
    }

    fn closed(&mut self, output: Vec<Output>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for output in output {
            let Output::Closed(incident) = output else {
                continue;
            };
            let timeline = self
                .analyzer
                .as_mut()
                .and_then(|analyzer| analyzer.take_timeline(incident.id))
                .unwrap_or_default();
            self.seen.incidents += 1;
            findings.push(Finding {
                incident: *incident,
                timeline,
            });
        }
        findings
    }

    /// From the boot clock of the records to the time of day.
    #[must_use]
    pub fn clock(&self) -> Option<BootClock> {
        self.clock
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}
