//! The records of one block.

use std::path::PathBuf;

use super::{error::CaptureError, line};
use crate::stream::Record;

/// Lines of JSON that are decoded one after the other.
#[derive(Debug, Default)]
pub(super) struct Lines {
    file: PathBuf,
    /// Where the block begins in the file.
    offset: u64,
    bytes: Vec<u8>,
    at: usize,
    number: u64,
}

impl Lines {
    pub(super) fn new(file: PathBuf, offset: u64, bytes: Vec<u8>) -> Self {
        Self {
            file,
            offset,
            bytes,
            at: 0,
            number: 0,
        }
    }

    /// The next one: a record, or one that is of a newer version.
    pub(super) fn next(&mut self) -> Option<Result<Option<Record>, CaptureError>> {
        let rest = self.bytes.get_mut(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let decoded = line::decode(&mut rest[..length]);
        self.at += length + 1;
        self.number += 1;
        Some(decoded.map_err(|error| CaptureError::Record {
            file: self.file.clone(),
            offset: self.offset,
            number: self.number,
            error,
        }))
    }

    /// The time of the first record that has one.
    pub(super) fn first_time(&self) -> Option<u64> {
        let lines = self.bytes.split(|byte| *byte == b'\n');
        let mut records = lines.filter_map(|line| line::decode(&mut line.to_vec()).ok()?);
        records.find_map(|record| record.time())
    }
}
