//! Recorded streams of real refusals give the incidents that were reported live: the analysis is a function of the
//! stream alone. `docs/testing.md` says how a capture is added.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tracer::{
    capture::Reader,
    incident::{Analyzer, Output, Timeline, replay},
    model::Incident,
    stream::Record,
};

fn captures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "stream"))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn closed(capture: &Path) -> Vec<Incident> {
    let (output, errors) = replay(Reader::open(capture).unwrap());
    assert!(errors.is_empty(), "{}: {errors:?}", capture.display());
    output
        .into_iter()
        .filter_map(|output| match output {
            Output::Closed(incident) => Some(*incident),
            Output::Open(_) => None,
        })
        .collect()
}

/// What a report says, without what it does not know: later versions have more fields.
fn known(report: Value) -> Value {
    let nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    match report {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !nothing(value))
            .map(|(name, value)| (name, known(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(known).collect(),
        other => other,
    }
}

#[test]
fn a_replayed_capture_gives_what_was_reported_live() {
    for capture in captures() {
        let live = fs::read_to_string(capture.with_extension("json")).unwrap();
        let live: Vec<Value> = live
            .lines()
            .map(|line| known(serde_json::from_str(line).unwrap()))
            .collect();
        let replayed: Vec<Value> = closed(&capture)
            .iter()
            .map(|incident| known(serde_json::to_value(incident).unwrap()))
            .collect();
        assert_eq!(replayed, live, "{}", capture.display());
    }
}

#[test]
fn the_books_of_every_capture_balance() {
    for capture in captures() {
        for incident in closed(&capture) {
            let books = &incident.references;
            let explained: u64 = incident
                .holders
                .iter()
                .filter(|holder| holder.counted)
                .map(|holder| holder.refs)
                .sum();
            assert_eq!(explained, books.explained, "{}", capture.display());
            assert_eq!(
                (books.counted, books.unexplained, books.overexplained),
                (Some(explained), Some(0), 0),
                "{}",
                capture.display()
            );
        }
    }
}

#[test]
fn a_cut_capture_gives_everything_before_the_cut() {
    for capture in captures() {
        let bytes = fs::read(&capture).unwrap();
        let cut = tempfile::NamedTempFile::new().unwrap();
        fs::write(cut.path(), &bytes[..bytes.len() - 10]).unwrap();
        let (_, errors) = replay(Reader::open(cut.path()).unwrap());
        assert_eq!(errors.len(), 1, "{}", capture.display());
        fs::write(cut.path(), &bytes[..bytes.len() / 2]).unwrap();
        let (output, _) = replay(Reader::open(cut.path()).unwrap());
        assert!(output.len() <= closed(&capture).len() * 2);
    }
}

/// The incidents of a capture with their times.
fn timelines(capture: &Path) -> Vec<(Incident, Timeline)> {
    let text = fs::read_to_string(capture).unwrap();
    let mut records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let Some(Record::Start(start)) = records.next() else {
        panic!("{}", capture.display())
    };
    let mut analyzer = Analyzer::new(start).with_timelines();
    let mut found = Vec::new();
    for record in records {
        for output in analyzer.push(record) {
            if let Output::Closed(incident) = output {
                let timeline = analyzer.take_timeline(incident.id).unwrap();
                assert_eq!(analyzer.take_timeline(incident.id), None);
                found.push((*incident, timeline));
            }
        }
    }
    found
}

#[test]
fn the_times_of_an_incident_agree_with_its_report() {
    for capture in captures() {
        for (incident, timeline) in timelines(&capture) {
            assert_eq!(timeline.attempts.len() as u64, incident.attempts());
            assert_eq!(timeline.attempts[0].entered, incident.started);
            assert_eq!(timeline.holders.len(), incident.holders.len());
            assert_eq!(timeline.bystanders.len(), incident.bystanders.len());
            for (holder, span) in incident.holders.iter().zip(&timeline.holders) {
                assert!(span.since <= span.until);
                assert_eq!(holder.opened.is_some(), span.begun);
                assert_eq!(holder.opened.unwrap_or(span.since), span.since);
                let covered = timeline
                    .attempts
                    .iter()
                    .filter(|attempt| (span.since..=span.until).contains(&attempt.returned))
                    .count();
                assert_eq!(covered as u64, holder.attempts_blocked);
            }
        }
    }
}
