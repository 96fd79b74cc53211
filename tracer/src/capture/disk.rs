//! The thread that writes: segments, their rotation, and what happens when the disk is full.
//!
//! Every block is written by one call and synced at once (`fdatasync`), at the latest half a second after its first
//! record; a new segment's name is synced before its first block. So a kill or a power failure costs less than the
//! last second.

use std::{io, os::fd::BorrowedFd, sync::Arc, time::Instant};

use super::{
    folder::{Folder, Limits, Open},
    format::{Anchor, BlockKind, Blocks, Header, STEP, encode_header},
    names::shown,
    queue::Batch,
    shared::{Destination, FLUSH, Shared},
    state::State,
    writer::append,
};
use crate::{identity::boot_nanos, stream::Record, text::say::say};

/// Bytes that are kept free for the end of a segment.
const END_SIZE: u64 = super::format::BLOCK_HEADER as u64;

/// What writes.
#[derive(Debug)]
pub(super) struct Disk {
    folder: Folder,
    limits: Limits,
    header: Header,
    blocks: Blocks,
    shared: Arc<Shared>,
    state: State,
    open: Option<Open>,
    /// Records written in this run.
    records: u64,
    /// What the capture says in all of what was not written.
    told: u64,
    failing: Option<String>,
}

impl Disk {
    pub(super) fn new(destination: Destination, header: Header, shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            folder: destination.folder,
            limits: destination.limits,
            header,
            blocks: Blocks::new()?,
            shared,
            state: State::default(),
            open: None,
            records: 0,
            told: 0,
            failing: None,
        })
    }

    /// Where it writes.
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.descriptor()
    }

    /// Writes until no more comes; gives the folder back.
    pub(super) fn run(mut self) -> Folder {
        // A capture without a record explains itself, too.
        let opened = self.begin();
        self.note(opened);
        let (mut flushed, mut unsynced) = (Instant::now(), false);
        loop {
            self.shared.wait(FLUSH.saturating_sub(flushed.elapsed()));
            let due = flushed.elapsed() >= FLUSH;
            let (batches, closing, reopen) = {
                let mut queue = self.shared.queue();
                let partial = due || queue.closing || queue.reopen;
                let batches = queue.take(partial);
                queue.hold(batches.iter().map(|batch| batch.lines.len()).sum());
                let reopen = std::mem::take(&mut queue.reopen);
                (batches, queue.closing, reopen)
            };
            // A new segment has both clocks in its header: so a step of the wall clock is known to the half second.
            if self.is_old() || self.is_stepped() {
                let ended = self.end();
                self.note(ended);
            }
            for batch in batches {
                let written = self.batch(&batch);
                let mut queue = self.shared.queue();
                queue.release(batch.lines.len());
                if written.is_err() {
                    queue.lose(&batch);
                }
                drop(queue);
                unsynced |= written.is_ok();
                self.state.apply(batch.marks, &batch.lines);
                self.note(written);
            }
            if due {
                flushed = Instant::now();
            }
            if due && std::mem::take(&mut unsynced) {
                let synced = self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data());
                self.note(synced);
            }
            if reopen {
                let reopened = self.end().and_then(|()| self.begin());
                self.note(reopened);
            }
            if let Some(age) = self.limits.max_age {
                let removed = self.folder.remove_older(age);
                self.note(removed);
            }
            if closing {
                let last = self.tell_not_written().and_then(|()| self.end());
                self.note(last);
            }
            self.stand();
            if closing {
                return self.folder;
            }
        }
    }

    /// Says when it begins to fail, and when it does not any more.
    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            let error = error.to_string();
            if self.failing.as_ref() != Some(&error) {
                let path = shown(self.folder.path());
                say!("ebusy: {path}: {error}: NOT RECORDING, but watching; what is not written is counted");
                self.failing = Some(error);
            }
        }
    }

    fn stand(&self) {
        let mut standing = self.shared.standing();
        let open = self.open.as_ref();
        standing.records = self.records;
        standing.segments = self.folder.segments() + usize::from(open.is_some());
        standing.size = self.folder.size() + open.map_or(0, |open| open.length);
        standing.removed = self.folder.removed();
        standing.failing.clone_from(&self.failing);
    }

    fn is_old(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            u128::from(boot_nanos().saturating_sub(open.begun)) > self.limits.segment_age.as_nanos()
        })
    }

    fn is_stepped(&self) -> bool {
        let begun = self.header.clock.filter(|_| self.open.is_some());
        begun.is_some_and(|begun| {
            let run = self.header.start.clock;
            let parted = Anchor::now().off(run).saturating_sub(begun.off(run));
            parted.saturating_abs() > STEP
        })
    }

    /// Writes a batch, after what has to be said of those that were not written.
    fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        let missed = self.not_written_line()?;
        let mut count = batch.count();
        let block = if let Some((line, _)) = &missed {
            count += 1;
            let lines = [&line[..], &batch.lines].concat();
            self.block(&lines, count)?
        } else {
            self.block(&batch.lines, count)?
        };
        self.write(&block)?;
        self.records += count;
        self.told = batch.told.or(missed.map(|(_, total)| total)).unwrap_or(self.told);
        if self.failing.take().is_some() {
            let path = shown(self.folder.path());
            say!(
                "ebusy: {path}: recording again; {} records were not written so far",
                self.told
            );
        }
        Ok(())
    }

    fn block(&mut self, lines: &[u8], count: u64) -> io::Result<Vec<u8>> {
        self.blocks
            .encode(BlockKind::Records, self.records, count as u32, lines)
    }

    /// At the end: what was not written, if the capture does not say so yet.
    fn tell_not_written(&mut self) -> io::Result<()> {
        if let Some((line, total)) = self.not_written_line()? {
            let block = self.block(&line, 1)?;
            self.write(&block)?;
            self.records += 1;
            self.told = total;
        }
        Ok(())
    }

    /// The record that says what was not written, and how much that is in all.
    fn not_written_line(&self) -> io::Result<Option<(Vec<u8>, u64)>> {
        let queue = self.shared.queue();
        let total = queue.not_written_total();
        if total == self.told {
            return Ok(None);
        }
        let lost = queue.with_not_written(boot_nanos(), self.state.losses.clone(), &self.state.noise);
        drop(queue);
        let mut line = Vec::new();
        append(&mut line, &Record::Lost(lost))?;
        Ok(Some((line, total)))
    }

    /// Writes a block: to a new segment if this one is full, and within the limits of the folder.
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let length = block.len() as u64;
        let full = |open: &Open| open.length + length + END_SIZE > self.limits.segment_size;
        if self.open.as_ref().is_some_and(full) {
            self.end()?;
        }
        if self.open.is_none() {
            self.begin()?;
        }
        self.make_room(length + END_SIZE)?;
        let Some(open) = &mut self.open else {
            return Err(io::Error::other("no segment is open"));
        };
        open.write(block)
    }

    /// Removes the oldest segments until there is room for so many bytes more.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        loop {
            let size = self.folder.size() + self.open.as_ref().map_or(0, |open| open.length);
            if size + bytes <= self.limits.max_size {
                return Ok(());
            }
            if !self.folder.remove_oldest()? {
                return Err(io::Error::other(format!(
                    "a block of {bytes} bytes does not fit into --max-size {}",
                    self.limits.max_size
                )));
            }
        }
    }

    /// Begins a segment: its header, and what it has to repeat.
    fn begin(&mut self) -> io::Result<()> {
        let (lines, count) = self.state_lines()?;
        let mut open = self.folder.create()?;
        self.header.begin(open.number, self.records);
        let written = encode_header(&self.header)
            .map_err(io::Error::from)
            .and_then(|mut bytes| {
                if count > 0 {
                    bytes.extend(
                        self.blocks
                            .encode(BlockKind::State, self.records, count, &lines)?,
                    );
                }
                self.make_room(bytes.len() as u64 + END_SIZE)?;
                open.write(&bytes)?;
                open.file.sync_data()?;
                self.folder.sync()
            });
        match written {
            Ok(()) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                self.folder.forget(&open);
                Err(error)
            }
        }
    }

    fn state_lines(&mut self) -> io::Result<(Vec<u8>, u32)> {
        let (mut lines, mut count) = self.state.lines(boot_nanos());
        let queue = self.shared.queue();
        let lost = queue.with_not_written(boot_nanos(), self.state.losses.clone(), &self.state.noise);
        drop(queue);
        if lost.losses.total() > 0 || !lost.noise.is_empty() {
            append(&mut lines, &Record::Lost(lost))?;
            count += 1;
        }
        Ok((lines, count))
    }

    /// Ends the segment. Its end is for readers: one that could not be written is no loss.
    fn end(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let written = self
            .blocks
            .encode(BlockKind::End, self.records, 0, &[])
            .and_then(|block| open.write(&block))
            .and_then(|()| open.file.sync_data());
        self.folder.store(open);
        written
    }
}
