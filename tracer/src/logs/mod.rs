//! Log lines of umounts that were refused, from whatever log has them: containerd, CRI-O, Docker and kubelet logs, the
//! journal as text or JSON, the kernel's log.
//!
//! A log is of any bytes: lines are capped, what is no UTF-8 stays as it is, and what could not be used is counted.

mod busy;
mod envelope;
mod lines;
mod matched;
#[cfg(test)]
mod samples;
mod stamp;

use std::{collections::VecDeque, io, io::BufRead};

use serde::Serialize;

pub use self::{
    busy::BusyError,
    matched::{Match, NotSeen, matched},
    stamp::LogClock,
};
use crate::model::{Text, Timestamp};

/// What is kept of a message.
const MESSAGE: usize = 4096;

/// One thing that a log line says was busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Number of the line, from 1.
    pub line: u64,
    /// Bytes before it in the log.
    pub offset: u64,
    /// When it was logged; of a continuation, when the line before was; `None` where the log does not say.
    pub time: Option<Timestamp>,
    /// The program that logged it, where the log says so: `containerd`, `kubelet`, `kernel`.
    pub source: Option<String>,
    /// What was logged, without what the log put around it; at most 4 KiB.
    pub message: Text,
    /// What was refused.
    pub error: BusyError,
    /// The path, or the name of a data set.
    pub target: Option<Text>,
    /// The container, by the path or by the message.
    pub container_id: Option<String>,
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
    /// Time and source of the last line that had a header.
    before: (Option<Timestamp>, Option<String>),
    ready: VecDeque<LogLine>,
    counts: LogCounts,
}

impl<R: BufRead> LogReader<R> {
    /// Reads from the beginning. `clock` is of the host that wrote the log.
    pub fn new(reader: R, clock: LogClock) -> Self {
        Self {
            reader,
            clock,
            line: lines::Line::default(),
            position: 0,
            before: (None, None),
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
            if !lines::read(&mut self.reader, &mut self.line, &mut self.position)? {
                return Ok(None);
            }
            self.counts.lines += 1;
            self.counts.cut += u64::from(self.line.cut);
            self.look();
        }
    }

    fn look(&mut self) {
        let record = envelope::peel(&self.line.bytes, &self.clock);
        let (time, source) = if record.headed {
            let found = (record.stamp.map(|stamp| stamp.time), record.source);
            self.before.clone_from(&found);
            found
        } else {
            self.before.clone()
        };
        let found = busy::find(&record.message);
        self.counts.relevant += u64::from(!found.is_empty());
        for busy in found {
            let names = busy::names(&record.message, busy.target.as_ref());
            self.ready.push_back(LogLine {
                line: self.counts.lines,
                offset: self.line.offset,
                time,
                source: source.clone(),
                message: Text::from(&record.message[..record.message.len().min(MESSAGE)]),
                error: busy.error,
                target: busy.target,
                container_id: names.container_id,
                pod: names.pod,
                pod_namespace: names.pod_namespace,
                pod_uid: names.pod_uid,
            });
        }
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = io::Result<LogLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
