//! What a reader has to tell besides records.

use std::path::PathBuf;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub bytes: u64,
}

/// Segments that are missing between two others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The first segment after it.
    pub before: PathBuf,
    /// How many segments are missing.
    pub segments: u64,
    /// Records that were in them, where they are of one run.
    pub records: Option<u64>,
}

/// The wall clock was set while a run recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The first segment that was begun after it.
    pub before: PathBuf,
    /// By how much, ns: negative for back.
    pub nanos: i64,
}

/// What was noticed while reading: no errors, but to be told. Complete when all was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Segments that end within a block: the recorder was killed, the power failed, or the file was cut.
    pub torn: Vec<Place>,
    /// Segments of which the end was not written: the recorder was killed, or is still writing.
    pub unclosed: Vec<PathBuf>,
    /// Missing segments.
    pub gaps: Vec<Gap>,
    /// Steps of the wall clock.
    pub steps: Vec<Step>,
    /// Damaged places.
    pub damaged: u64,
    /// Records that are known to be missing: in damaged places and gaps.
    pub lost_records: u64,
    /// Records of types that a newer version of ebusy writes.
    pub unknown_records: u64,
    /// Blocks of kinds that a newer version writes.
    pub unknown_blocks: u64,
    /// The architecture of the host that wrote it, where that is not ours.
    pub foreign_architecture: Option<String>,
    /// Segments read.
    pub segments: u64,
    /// Runs of the recorder in them.
    pub runs: u64,
}

impl Notes {
    /// The notes in words.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for Place { file, offset, bytes } in &self.torn {
            lines.push(format!(
                "{}: byte {offset}: the file ends within a block ({bytes} bytes of it are there): the recorder was \
                 killed, or the file was cut",
                file.display()
            ));
        }
        for file in &self.unclosed {
            if self.torn.iter().all(|torn| torn.file != *file) {
                lines.push(format!(
                    "{}: not closed: the recorder was killed (then at most its last second is missing), or is still \
                     writing",
                    file.display()
                ));
            }
        }
        for Gap {
            before,
            segments,
            records,
        } in &self.gaps
        {
            let records =
                records.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
            lines.push(format!(
                "{}: {segments} segments before it are missing, with {records} records",
                before.display()
            ));
        }
        for Step { before, nanos } in &self.steps {
            lines.push(format!(
                "{}: the wall clock was stepped by {:+.3} s before it; all times are those of the clock that the run \
                 began with, so that they stay in order: add the steps to find them in a log",
                before.display(),
                *nanos as f64 / 1e9
            ));
        }
        if self.damaged > 0 {
            lines.push(format!("{} damaged places were skipped", self.damaged));
        }
        if self.unknown_records + self.unknown_blocks > 0 {
            lines.push(format!(
                "{} records and {} blocks are of types that only a newer ebusy knows",
                self.unknown_records, self.unknown_blocks
            ));
        }
        if let Some(architecture) = &self.foreign_architecture {
            lines.push(format!("the capture was written on {architecture}"));
        }
        lines
    }
}
