//! What is wrong with a capture: which file, at which byte, and what that costs.

use std::{io, path::PathBuf};

use super::format::VERSION;

/// Why a capture, or a part of it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The system refused.
    #[error("{}: byte {offset}: {error}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// How far it was read.
        offset: u64,
        /// Why not further.
        error: io::Error,
    },
    /// A folder without segments.
    #[error("{}: no segment of a capture in this folder (ebusy-*.zst)", folder.display())]
    NoSegments {
        /// Which folder.
        folder: PathBuf,
    },
    /// A file without a byte.
    #[error("{}: byte 0: the file is empty", file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
    /// No capture at all.
    #[error("{}: byte 0: this is no capture of ebusy", file.display())]
    Foreign {
        /// Which file.
        file: PathBuf,
    },
    /// Written by a newer ebusy.
    #[error(
        "{}: byte 16: format version {version}; this ebusy reads up to version {VERSION}: use a newer one",
        file.display()
    )]
    Version {
        /// Which file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It ends within its header.
    #[error("{}: byte {offset}: the file ends within its header", file.display())]
    Truncated {
        /// Which file.
        file: PathBuf,
        /// Its length.
        offset: u64,
    },
    /// Its header is damaged.
    #[error("{}: byte {offset}: the header is damaged: {reason}", file.display())]
    Header {
        /// Which file.
        file: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A part in the middle is damaged; what follows is read.
    #[error(
        "{}: byte {offset}: {reason}; {bytes} bytes skipped, {} lost",
        file.display(),
        records.map_or_else(|| "an unknown number of records".to_owned(), |count| format!("{count} records"))
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// Bytes that were skipped.
        bytes: u64,
        /// Records that were in them, if what follows tells.
        records: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// One record is not what this ebusy knows by its name.
    #[error("{}: record {number} of the block at byte {offset}: {error}", file.display())]
    Record {
        /// Which file.
        file: PathBuf,
        /// Where its block begins (of JSON lines: the line).
        offset: u64,
        /// Its number in the block, from 1.
        number: u64,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// JSON lines that do not begin with a `start` record.
    #[error("{}: byte 0: the capture does not begin with a start record", file.display())]
    Start {
        /// Which file.
        file: PathBuf,
    },
}
