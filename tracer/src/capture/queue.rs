//! Between the thread that watches, which must not wait for a disk, and the one that writes.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

use super::{
    format::{BLOCK, BLOCK_MAX},
    shares::Shares,
    state::Mark,
    writer::append,
};
use crate::{
    identity::boot_nanos,
    probe::Losses,
    stream::{Lost, Noise, Record},
};

/// Bytes that may wait for the disk; more is not recorded, and counted.
const WAITING_MAX: usize = 16 << 20;

/// Records that become one block.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    /// How many, by type.
    pub(super) kinds: BTreeMap<&'static str, u64>,
    pub(super) marks: Vec<Mark>,
    /// What its last record of losses says in all of what was not written.
    pub(super) told: Option<u64>,
}

impl Batch {
    pub(super) fn count(&self) -> u64 {
        self.kinds.values().sum()
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// What the two threads share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    full: VecDeque<Batch>,
    open: Batch,
    waiting: usize,
    /// Records that were not written, by type; without those of others that were too many.
    not_written: BTreeMap<&'static str, u64>,
    shares: Shares,
    /// A new segment is asked for.
    pub(super) reopen: bool,
    /// No more records will come.
    pub(super) closing: bool,
}

impl Queue {
    /// Of a folder of so many bytes.
    pub(super) fn of(size: u64) -> Self {
        Self {
            shares: Shares::of(size),
            ..Self::default()
        }
    }

    /// Adds a record; whether a whole block waits now.
    pub(super) fn push(&mut self, record: &Record) -> bool {
        if self.waiting + self.open.lines.len() >= WAITING_MAX {
            *self.not_written.entry(record.name()).or_default() += 1;
            return false;
        }
        let begin = self.open.lines.len();
        let appended = match record {
            // Whoever reads the capture has lost what was not written as well.
            Record::Lost(Lost { time, losses, noise }) => {
                self.open.told = Some(self.not_written_total());
                let lost = self.with_not_written(*time, losses.clone(), noise);
                append(&mut self.open.lines, &Record::Lost(lost))
            }
            record => append(&mut self.open.lines, record),
        };
        let end = self.open.lines.len();
        if appended.is_err() || end - begin > BLOCK_MAX - BLOCK {
            self.open.lines.truncate(begin);
            *self.not_written.entry(record.name()).or_default() += 1;
            return false;
        }
        if !self.shares.admit(record, end - begin, boot_nanos()) {
            self.open.lines.truncate(begin);
            return false;
        }
        *self.open.kinds.entry(record.name()).or_default() += 1;
        self.open.marks.extend(Mark::of(record, begin..end));
        let is_full = end >= BLOCK;
        if is_full {
            self.waiting += end;
            self.full.push_back(mem::take(&mut self.open));
        }
        is_full
    }

    /// Takes the blocks that wait, and what waits to become one.
    pub(super) fn take(&mut self, partial: bool) -> VecDeque<Batch> {
        let mut batches = mem::take(&mut self.full);
        if partial && !self.open.is_empty() {
            batches.push_back(mem::take(&mut self.open));
        }
        batches
    }

    /// A batch was dealt with: its place is free.
    pub(super) fn release(&mut self, bytes: usize) {
        self.waiting = self.waiting.saturating_sub(bytes);
    }

    /// Takes the room of all that was taken, until it is released.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.waiting = bytes;
    }

    pub(super) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Counts a batch as not written.
    pub(super) fn lose(&mut self, batch: &Batch) {
        for (kind, count) in &batch.kinds {
            *self.not_written.entry(kind).or_default() += count;
        }
    }

    /// Records that were not written so far.
    pub(super) fn not_written_total(&self) -> u64 {
        self.not_written.values().sum::<u64>() + self.shares.not_written_total()
    }

    /// Losses, with what was not written.
    pub(super) fn with_not_written(&self, time: u64, mut losses: Losses, noise: &[Noise]) -> Lost {
        for (kind, count) in &self.not_written {
            losses.add(format!("capture: {kind} not written"), *count);
        }
        let noise = self.shares.with_not_written(noise);
        Lost { time, losses, noise }
    }
}
