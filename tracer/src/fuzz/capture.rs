//! A capture, with everything that is made of it.

use std::{
    cell::Cell,
    io::{self, Write},
    os::fd::AsRawFd as _,
    path::Path,
    rc::Rc,
};

use jiff::tz::TimeZone;
use rustix::fs::MemfdFlags;

use crate::{
    capture,
    export::{Jsonl, Perfetto},
    model::Incident,
    render::{self, Html, Style},
    report::{Analysis, Finding, Redactor, Tally},
    text::printable,
};

/// Reads a capture and writes what is in it, in all formats; returns how many bytes that are.
///
/// # Panics
///
/// Where text for a terminal has characters that do something there.
#[must_use]
pub fn written(bytes: &[u8]) -> u64 {
    read(bytes, |_| {}).unwrap_or(0)
}

/// The same, and hands on every incident. `None` where nothing can be read.
pub(super) fn read(bytes: &[u8], told: impl FnMut(Incident)) -> Option<u64> {
    let memory = rustix::fs::memfd_create("capture", MemfdFlags::CLOEXEC).ok()?;
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let count = Count::default();
    let mut reader = match capture::Reader::open(Path::new(&path)) {
        Ok(reader) => reader,
        Err(error) => {
            count.text(&printable(&error.to_string()));
            return Some(count.0.get());
        }
    };
    let redactor = Redactor::new().ok()?;
    let mut analysis = Analysis::default();
    let mut outputs = Outputs {
        count: count.clone(),
        json: Jsonl::new(count.clone(), redactor.clone()),
        trace: Perfetto::new(count.clone()),
        page: Html::new(TimeZone::UTC, 4),
        tally: Tally::new(TimeZone::UTC),
        redactor,
        told,
    };
    for item in reader.by_ref() {
        match item {
            Ok(record) => {
                if let Some(clock) = analysis.clock() {
                    let mut redacted = record.clone();
                    outputs.redactor.record(&mut redacted);
                    let _ = outputs.json.record(&redacted, clock);
                }
                for finding in analysis.push(record) {
                    outputs.finding(finding);
                }
            }
            Err(error) => count.text(&printable(&error.to_string())),
        }
    }
    for finding in analysis.finish() {
        outputs.finding(finding);
    }
    let damage = reader.notes().lines();
    let summary = outputs.tally.finish(analysis.seen(), damage);
    outputs.count.text(&render::summary(&summary, &style()));
    count.add(outputs.page.finish(&summary, &[], "capture").len());
    Some(count.0.get())
}

fn style() -> Style {
    Style {
        terminal: false,
        zone: TimeZone::UTC,
    }
}

/// Counts what is written to it.
#[derive(Debug, Clone, Default)]
struct Count(Rc<Cell<u64>>);

impl Count {
    fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }

    /// For a terminal.
    fn text(&self, text: &str) {
        super::shown::shown(text);
        self.add(text.len());
    }
}

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Outputs<T> {
    count: Count,
    json: Jsonl<Count>,
    trace: Perfetto<Count>,
    page: Html,
    tally: Tally,
    redactor: Redactor,
    told: T,
}

impl<T: FnMut(Incident)> Outputs<T> {
    fn finding(&mut self, mut finding: Finding) {
        let text = render::of_capture(&finding.incident, &[], true, &style());
        self.count.text(&text);
        let _ = self.trace.finding(&finding);
        self.page.incident(&finding, &[]);
        let _ = self.tally.add(&finding);
        self.redactor.incident(&mut finding.incident);
        let _ = self.json.finding(&finding);
        (self.told)(finding.incident);
    }
}
