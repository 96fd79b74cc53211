//! One segment, block by block.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    error::CaptureError,
    format::{
        BLOCK_HEADER, BlockHeader, BlockKind, FILE_HEADER, Header, MARKER, Preamble, is_believed, preamble,
    },
};

/// Bytes looked through at once for the next block.
const SCAN: usize = 64 << 10;

/// A part of a segment.
#[derive(Debug)]
pub(super) enum Piece {
    /// Lines.
    Block {
        kind: BlockKind,
        /// Records that the run had before it.
        first: u64,
        /// Records in it.
        count: u32,
        /// Where it begins.
        offset: u64,
        lines: Vec<u8>,
    },
    /// Something that is no block, or a damaged one.
    Damage {
        offset: u64,
        bytes: u64,
        reason: &'static str,
    },
    /// The file ends here, within a block.
    Torn { offset: u64, bytes: u64 },
}

/// A segment that is being read.
pub(super) struct Segment {
    pub(super) file: PathBuf,
    pub(super) header: Header,
    /// Position of the next block.
    pub(super) offset: u64,
    length: u64,
    from: BufReader<File>,
    frames: zstd::bulk::Decompressor<'static>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("file", &self.file)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Reads the header; `from` is at the beginning of the file.
    pub(super) fn open(file: &Path, mut from: BufReader<File>) -> Result<Self, CaptureError> {
        let file = file.to_owned();
        let failed = |offset, error| CaptureError::Read {
            file: file.clone(),
            offset,
            error,
        };
        let length = from.get_ref().metadata().map_err(|error| failed(0, error))?.len();
        let first = up_to(&mut from, FILE_HEADER).map_err(|error| failed(0, error))?;
        let header = |offset, reason| CaptureError::Header {
            file: file.clone(),
            offset,
            reason,
        };
        let (size, crc) = match preamble(&first) {
            None => return Err(CaptureError::Truncated { file, offset: length }),
            Some(Preamble::Foreign) => return Err(CaptureError::Foreign { file }),
            Some(Preamble::Version(version)) => return Err(CaptureError::Version { file, version }),
            Some(Preamble::Length(size)) => return Err(header(4, format!("a length of {size}"))),
            Some(Preamble::Header { length, crc }) => (length as usize, crc),
        };
        let json = up_to(&mut from, size).map_err(|error| failed(FILE_HEADER as u64, error))?;
        if json.len() < size {
            return Err(CaptureError::Truncated { file, offset: length });
        }
        let at = FILE_HEADER as u64;
        if crc32fast::hash(&json) != crc {
            return Err(header(at, "its checksum differs".to_owned()));
        }
        let decoded = serde_json::from_slice(&json).map_err(|error| header(at, error.to_string()))?;
        let frames = zstd::bulk::Decompressor::new().map_err(|error| failed(0, error))?;
        Ok(Self {
            file,
            header: decoded,
            offset: (FILE_HEADER + size) as u64,
            length,
            from,
            frames,
        })
    }

    /// The next part; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        let offset = self.offset;
        let bytes = up_to(&mut self.from, BLOCK_HEADER)?;
        self.offset += bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Ok(bytes) = <&[u8; BLOCK_HEADER]>::try_from(&bytes[..]) else {
            return Ok(Some(Piece::Torn {
                offset,
                bytes: bytes.len() as u64,
            }));
        };
        let Some(header) = BlockHeader::decode(bytes) else {
            return self.resume_after(offset).map(Some);
        };
        let end = self.offset + u64::from(header.stored);
        if end > self.length {
            self.go_to(self.length)?;
            return Ok(Some(Piece::Torn {
                offset,
                bytes: self.length - offset,
            }));
        }
        let damage = |reason| Piece::Damage {
            offset,
            bytes: end - offset,
            reason,
        };
        if !is_believed(header.stored as usize, header.raw as usize) {
            self.go_to(end)?;
            return Ok(Some(damage("a block of an impossible length")));
        }
        let frame = up_to(&mut self.from, header.stored as usize)?;
        self.offset += frame.len() as u64;
        if frame.len() < header.stored as usize {
            return Ok(Some(Piece::Torn {
                offset,
                bytes: self.offset - offset,
            }));
        }
        if crc32fast::hash(&frame) != header.crc {
            return Ok(Some(damage("the checksum of a block differs")));
        }
        let lines = if frame.is_empty() {
            Ok(Vec::new())
        } else {
            self.frames.decompress(&frame, header.raw as usize)
        };
        Ok(Some(match lines {
            Ok(lines) if lines.len() == header.raw as usize => {
                let BlockHeader {
                    kind, first, count, ..
                } = header;
                Piece::Block {
                    kind,
                    first,
                    count,
                    offset,
                    lines,
                }
            }
            _ => damage("a block cannot be decompressed"),
        }))
    }

    /// Looks for the next block after something at `offset` that is none. Zeros up to the end are what a file system
    /// leaves of a block that never came to the disk.
    fn resume_after(&mut self, offset: u64) -> io::Result<Piece> {
        let mut from = offset + 1;
        let mut zeros = true;
        loop {
            self.go_to(from)?;
            let bytes = up_to(&mut self.from, SCAN)?;
            let found = bytes.windows(MARKER.len()).position(|window| window == MARKER);
            let skipped = found.unwrap_or(bytes.len());
            zeros &= bytes[..skipped].iter().all(|byte| *byte == 0);
            if let Some(at) = found {
                self.go_to(from + at as u64)?;
                break;
            }
            if bytes.len() < SCAN {
                self.go_to(self.length)?;
                break;
            }
            // A marker may lie across.
            from += (SCAN - MARKER.len() + 1) as u64;
        }
        let bytes = self.offset - offset;
        if zeros && self.offset == self.length {
            return Ok(Piece::Torn { offset, bytes });
        }
        Ok(Piece::Damage {
            offset,
            bytes,
            reason: "no block begins here",
        })
    }

    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.from.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        Ok(())
    }
}

/// Reads so many bytes, or what is left.
fn up_to(from: &mut BufReader<File>, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
