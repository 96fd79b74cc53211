//! Log lines of umounts that were refused, from whatever log has them: containerd, CRI-O, Docker and kubelet logs, the
//! journal as text or JSON, the kernel's log.
//!
//! A log is of any bytes: lines are capped, what is no UTF-8 stays as it is, and what could not be used is counted.

mod assemble;
mod busy;
#[cfg(test)]
mod corpus;
mod envelope;
mod error;
mod header;
mod json;
mod lines;
mod logfmt;
mod matched;
mod meant;
mod names;
mod paths;
mod phrases;
mod prefix;
mod record;
#[cfg(test)]
mod samples;
mod stamp;
mod text;

use std::{collections::VecDeque, io, io::BufRead};

use serde::Serialize;

use self::{
    assemble::{Assembler, Entry, Next},
    record::Record,
    stamp::Stamp,
    text::{ESCAPE, without_colours},
};
pub use self::{
    error::BusyError,
    matched::{Match, NotSeen, matched},
    meant::{Known, plain},
    stamp::{Assumed, LogClock},
};
use crate::model::{Text, Timestamp};

/// What is kept of a message.
const MESSAGE: usize = 4096;
/// Lines before one whose paths it may be about, and how many of them.
const LINES_BEFORE: u64 = 16;
const PATHS_BEFORE: usize = 8;

/// One thing that a log line says was busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Number of the line, from 1.
    pub line: u64,
    /// Bytes before it in the log.
    pub offset: u64,
    /// When it was logged; of a continuation, when the line before was; `None` where the log does not say.
    pub time: Option<Timestamp>,
    /// What of that time the log does not say.
    pub assumed: Option<Assumed>,
    /// The program that logged it, where the log says so: `containerd`, `kubelet`, `kernel`.
    pub source: Option<String>,
    /// What was logged, without what the log put around it; at most 4 KiB.
    pub message: Text,
    /// What was refused.
    pub error: BusyError,
    /// The path, or the name of a data set.
    pub target: Option<Text>,
    /// All paths of the message with whatever may belong to them, that of the target first.
    #[serde(skip)]
    pub paths: Vec<Text>,
    /// The container, by the path or by the message.
    pub container_id: Option<String>,
    /// The others that the message names.
    #[serde(skip)]
    pub other_ids: Vec<String>,
    /// Pod name.
    pub pod: Option<String>,
    /// Kubernetes namespace of the pod.
    pub pod_namespace: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LogCounts {
    /// All lines.
    pub lines: u64,
    /// Those that speak of something busy.
    pub relevant: u64,
    /// Those that were longer than 64 KiB: what came after that was not looked at.
    pub cut: u64,
}

/// Reads a log, and yields what it says was busy.
#[derive(Debug)]
pub struct LogReader<R> {
    reader: R,
    clock: LogClock,
    line: lines::Line,
    position: u64,
    assembler: Assembler,
    entries: VecDeque<Entry>,
    before: Before,
    ready: VecDeque<LogLine>,
    counts: LogCounts,
}

/// The last line that had a header, with what was said since.
#[derive(Debug, Default)]
struct Before {
    stamp: Option<Stamp>,
    source: Option<String>,
    /// What umounts and the like were about, as far as lines without an error say, with what may belong to each path, and
    /// how many lines ago.
    paths: VecDeque<(u64, Text, Text, BusyError)>,
    lines: u64,
}

impl<R: BufRead> LogReader<R> {
    /// Reads from the beginning. `clock` is of the host that wrote the log.
    pub fn new(reader: R, clock: LogClock) -> Self {
        Self {
            reader,
            clock,
            line: lines::Line::default(),
            position: 0,
            assembler: Assembler::default(),
            entries: VecDeque::new(),
            before: Before::default(),
            ready: VecDeque::new(),
            counts: LogCounts::default(),
        }
    }

    /// What was read so far.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        self.counts
    }

    /// Reads on to the next one; `None` at the end.
    ///
    /// # Errors
    ///
    /// Only those of the reader: no line is an error.
    pub fn read(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if let Some(entry) = self.entries.pop_front() {
                self.look(entry);
                continue;
            }
            if lines::read(&mut self.reader, &mut self.line, &mut self.position)? {
                self.counts.lines += 1;
                self.counts.cut += u64::from(self.line.cut);
                let next = self
                    .assembler
                    .line(&self.line, self.counts.lines, &mut self.entries);
                if next == Next::Binary {
                    let value = lines::read_binary(&mut self.reader, &mut self.position)?;
                    self.assembler.binary(value);
                }
                continue;
            }
            self.assembler.end(&mut self.entries);
            if self.entries.is_empty() {
                return Ok(None);
            }
        }
    }

    fn look(&mut self, mut entry: Entry) {
        self.before.lines += 1;
        let mut record = Record::default();
        if let Some((stamp, source)) = entry.journal.take() {
            record.message = without_colours(&entry.bytes).into_owned();
            record.stamp = stamp;
            record.source = source;
            envelope::peel_message(&mut record, &self.clock);
            record.headed = true;
        } else {
            record = envelope::peel(&entry.bytes, &self.clock);
        }
        if record.headed {
            self.before = Before {
                stamp: record.stamp,
                source: record.source,
                ..Before::default()
            };
        }
        let mut found = busy::find(&record.message);
        found.retain(|busy| busy.is_about_something(&record.message));
        if entry.bytes.contains(&ESCAPE) {
            // An escape may be part of a name after all.
            let raw = busy::all_paths(&entry.bytes);
            for busy in &mut found {
                busy.paths.extend(raw.iter().cloned());
            }
        }
        self.counts.relevant += u64::from(!found.is_empty());
        let has_reason = found.iter().any(|busy| busy.error != BusyError::UmountFailed);
        for mut busy in found {
            if busy.target.is_none() && busy.error != BusyError::OverlayInUse {
                self.before.complete(&mut busy);
            }
            self.ready
                .push_back(self.before.line(&entry, &record.message, busy));
        }
        if has_reason {
            // That was said: what comes is about something else.
            self.before.paths.clear();
        } else {
            self.before.remember(&record.message);
        }
    }
}

impl Before {
    fn line(&self, entry: &Entry, message: &[u8], busy: busy::Busy) -> LogLine {
        let names = names::names(message, busy.target.as_ref());
        let mut ids = names.containers.into_iter();
        let target = busy.target;
        LogLine {
            line: entry.line,
            offset: entry.offset,
            time: self.stamp.map(|stamp| stamp.time),
            assumed: self.stamp.and_then(|stamp| stamp.assumed),
            source: self.source.clone(),
            message: Text::from(&message[..message.len().min(MESSAGE)]),
            error: busy.error,
            target,
            paths: busy.paths,
            container_id: ids.next(),
            other_ids: ids.collect(),
            pod: names.pod,
            pod_namespace: names.pod_namespace,
            pod_uid: names.pod_uid,
        }
    }

    /// Errors of Rust and Python have their causes, and their paths, in lines of their own.
    fn complete(&self, busy: &mut busy::Busy) {
        let near = |line: &u64| self.lines - line < LINES_BEFORE;
        let paths = self.paths.iter().rev().filter(|(line, ..)| near(line));
        busy.paths = paths.clone().map(|(_, _, whole, _)| whole.clone()).collect();
        if let Some((_, path, _, error)) = paths.clone().next() {
            busy.target = Some(path.clone());
            if busy.error == BusyError::Other {
                busy.error = *error;
            }
        }
    }

    fn remember(&mut self, message: &[u8]) {
        for (path, whole, error) in busy::tried_paths(message) {
            if self.paths.len() == PATHS_BEFORE {
                self.paths.pop_front();
            }
            self.paths.push_back((self.lines, path, whole, error));
        }
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = io::Result<LogLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
