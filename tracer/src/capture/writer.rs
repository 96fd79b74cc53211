//! Writes one segment to anything that takes bytes.

use std::io::{self, Write};

use super::format::{BLOCK, BLOCK_MAX, BlockKind, Blocks, Header, encode_header};
use crate::stream::Record;

/// One segment.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    blocks: Blocks,
    lines: Vec<u8>,
    count: u32,
    first: u64,
}

impl<W: Write> Writer<W> {
    /// Begins it. `header` has the `start` record; that is not pushed again.
    pub fn new(mut to: W, header: &Header) -> io::Result<Self> {
        let header = Header {
            format: super::VERSION,
            ..header.clone()
        };
        to.write_all(&encode_header(&header)?)?;
        Ok(Self {
            to,
            blocks: Blocks::new()?,
            lines: Vec::with_capacity(BLOCK),
            count: 0,
            first: header.first_record,
        })
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let length = self.lines.len();
        append(&mut self.lines, record)?;
        if self.lines.len() - length > BLOCK_MAX - BLOCK {
            self.lines.truncate(length);
            return Err(io::Error::other("a record is longer than a block may be"));
        }
        self.count += 1;
        if self.lines.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    /// Ends a block.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.count > 0 {
            let block = self
                .blocks
                .encode(BlockKind::Records, self.first, self.count, &self.lines)?;
            self.to.write_all(&block)?;
            self.first += u64::from(self.count);
            self.count = 0;
            self.lines.clear();
        }
        Ok(())
    }

    /// Ends the segment.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.to
            .write_all(&self.blocks.encode(BlockKind::End, self.first, 0, &[])?)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Adds a record as a line.
pub(super) fn append(lines: &mut Vec<u8>, record: &Record) -> serde_json::Result<()> {
    let length = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, record) {
        lines.truncate(length);
        return Err(error);
    }
    lines.push(b'\n');
    Ok(())
}
