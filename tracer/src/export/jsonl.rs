//! JSON lines: every record except mere ticks, and every incident as it closes.

use std::io::{self, Write};

use serde::Serialize;

use super::event::Line;
use crate::{
    identity::BootClock,
    report::{Finding, Redactor},
    stream::Record,
};

/// Writes JSON lines.
#[derive(Debug)]
pub struct Jsonl<W> {
    to: W,
    keys: Redactor,
    /// Lines so far.
    pub lines: u64,
}

impl<W: Write> Jsonl<W> {
    /// To a file, with keys for kernel addresses.
    pub fn new(to: W, keys: Redactor) -> Self {
        Self { to, keys, lines: 0 }
    }

    /// A record.
    pub fn record(&mut self, record: &Record, clock: BootClock) -> io::Result<()> {
        match Line::of(record, clock, &self.keys) {
            Some(line) => write(&mut self.to, &mut self.lines, &line),
            None => Ok(()),
        }
    }

    /// An incident.
    pub fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        write(&mut self.to, &mut self.lines, &finding.incident)
    }

    /// Flushes the rest.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn write(to: &mut impl Write, lines: &mut u64, value: &impl Serialize) -> io::Result<()> {
    crate::text::json::to_writer(&mut *to, value)?;
    *lines += 1;
    to.write_all(b"\n")
}
