//! Reads captures by `docs/capture-format.md`, without any code of ebusy: only intact blocks, in order.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

const MAGIC: [u8; 4] = [0x5e, 0x2a, 0x4d, 0x18];

/// The contents of a capture.
#[derive(Debug, Default)]
pub struct Capture {
    /// The headers of its segments.
    pub headers: Vec<Value>,
    /// The last segment has an end block.
    pub closed: bool,
    /// Its records except opens and closes, and without repeated ones.
    pub records: Vec<Value>,
    /// Its opens.
    pub opened: Vec<Opened>,
    /// Number of closes.
    pub closes: u64,
    /// Bytes of its segments.
    pub bytes: u64,
}

/// An opened file, with only the fields that tests of floods need.
#[derive(Debug, Deserialize)]
pub struct Opened {
    /// Boot clock, ns.
    pub time: u64,
    /// The process that opened it.
    pub by: By,
}

/// A process.
#[derive(Debug, Deserialize)]
pub struct By {
    /// Its id.
    pub pid: u32,
}

/// The segments of a folder, in order.
pub fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "zst") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes of all files in a folder; a file that disappears meanwhile counts as 0.
pub fn size(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        size += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(size)
}

impl Capture {
    /// Reads a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut capture = Self::default();
        for path in segments(folder)? {
            let bytes = fs::read(&path)?;
            capture
                .segment(&bytes)
                .with_context(|| path.display().to_string())?;
        }
        Ok(capture)
    }

    fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        let name = bytes.get(8..16) == Some(b"EBUSYCAP");
        ensure!(bytes.starts_with(&MAGIC) && name, "no header");
        let mut at = 8 + u32_at(bytes, 4)? as usize;
        self.headers
            .push(serde_json::from_slice(bytes.get(24..at).context("a header")?)?);
        self.closed = false;
        // A partly written block ends the segment.
        while let Some(header) = bytes.get(at..at + 48) {
            ensure!(
                header.starts_with(&MAGIC) && &header[8..16] == b"EBUSYBLK",
                "no block at {at}"
            );
            let (kind, count, stored) = (
                u32_at(header, 16)?,
                u32_at(header, 20)?,
                u32_at(header, 32)? as usize,
            );
            let Some(frame) = bytes.get(at + 48..at + 48 + stored) else {
                break;
            };
            at += 48 + stored;
            match kind {
                1 => {
                    let lines = zstd::stream::decode_all(frame)?;
                    let before = self.count();
                    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                        self.line(line)?;
                    }
                    ensure!(
                        self.count() - before == u64::from(count),
                        "a block of {count} records"
                    );
                }
                2 => self.closed = true,
                3 => {}
                kind => anyhow::bail!("a block of kind {kind}"),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        if line.starts_with(b"{\"record\":\"opened\",") {
            self.opened.push(serde_json::from_slice(line)?);
        } else if line.starts_with(b"{\"record\":\"closed\",") {
            self.closes += 1;
        } else {
            self.records.push(serde_json::from_slice(line)?);
        }
        Ok(())
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.records.len() + self.opened.len()) as u64 + self.closes
    }

    /// The records of one type, except opens and closes.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |record| record["record"] == name)
    }

    /// The probe tier.
    #[must_use]
    pub fn tier(&self) -> &str {
        self.headers
            .first()
            .and_then(|header| header["start"]["tier"].as_str())
            .unwrap_or_default()
    }

    /// Losses by the last totals of the last run, of the kinds whose names have this prefix.
    #[must_use]
    pub fn lost(&self, prefix: &str) -> u64 {
        let last = self.of("lost").last();
        let losses = last.and_then(|lost| lost["losses"].as_object());
        losses.map_or(0, |losses| {
            let of_kind = losses.iter().filter(|(what, _)| what.starts_with(prefix));
            of_kind.filter_map(|(_, count)| count.as_u64()).sum()
        })
    }

    /// Recorded opens of a process.
    #[must_use]
    pub fn opened_by(&self, pid: u32) -> u64 {
        self.opened.iter().filter(|opened| opened.by.pid == pid).count() as u64
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).context("the file ends")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}
