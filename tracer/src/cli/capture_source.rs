//! Reading a capture for `report` and `export`: where it is, how far it was read, what is wrong with it.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    capture::{CaptureError, Opened, Reader},
    model::Timestamp,
    report::{Analysis, Finding},
    stream::Record,
    text::{
        said_path,
        say::{draw, say},
    },
};

/// Damages that are told one by one.
const DAMAGE_MAX: usize = 100;
/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// Records between two looks at the clock.
const LOOK: u64 = 4096;

/// What was wrong with a capture that was read.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// In words, with file and offset; the first ones.
    pub(super) told: Vec<String>,
    /// All of them.
    pub(super) count: u64,
}

impl Damage {
    fn add(&mut self, words: String) {
        self.count += 1;
        if self.told.len() < DAMAGE_MAX {
            self.told.push(words);
        }
    }
}

/// Reads a capture from begin to end and gives each record, then the incidents that it closes. What cannot be read is
/// told on stderr and returned; everything else is given.
pub(super) fn read(
    capture: Opened,
    analysis: &mut Analysis,
    mut record: impl FnMut(&mut Record, &Analysis) -> Result<()>,
    mut finding: impl FnMut(Finding) -> Result<()>,
) -> Result<Damage> {
    let mut reader = Reader::new(capture)?;
    let mut damage = Damage::default();
    let mut progress = Progress::new();
    while let Some(item) = reader.next() {
        match item {
            Ok(mut next) => {
                record(&mut next, analysis)?;
                for found in analysis.push(next) {
                    finding(found)?;
                }
            }
            Err(error) => {
                progress.clear();
                if damage.told.len() < DAMAGE_MAX {
                    say!("ebusy: {error}");
                }
                damage.add(error.to_string());
            }
        }
        progress.step(&reader);
    }
    progress.clear();
    for found in analysis.finish() {
        finding(found)?;
    }
    let notes = reader.notes();
    for line in notes.lines() {
        say!("ebusy: {line}");
    }
    // A recorder that is still writing, or was killed, left a capture that is whole up to then.
    let missing = !notes.gaps.is_empty() || notes.unknown_records + notes.unknown_blocks > 0;
    if missing || !notes.torn.is_empty() {
        damage.told.extend(notes.lines());
        damage.count += u64::from(missing);
    }
    if damage.count as usize > DAMAGE_MAX {
        say!("ebusy: {} damaged places in all", damage.count);
    }
    Ok(damage)
}

/// Opens it.
pub(super) fn open(path: &Path) -> Result<Opened> {
    Opened::open(path).map_err(|error| match &error {
        CaptureError::Read { error: why, .. } if why.kind() == std::io::ErrorKind::NotFound => {
            anyhow::anyhow!(
                "{}: no such capture; `ebusy record -o DIR` makes one, `ebusy report DIR` reads it",
                said_path(path)
            )
        }
        _ => error.into(),
    })
}

/// The time of the last record of a capture: that of its last segment that has one.
pub(super) fn end_of(capture: &Opened) -> Option<Timestamp> {
    capture.last_first().find_map(|file| {
        let reader = Reader::new(file).ok()?;
        let mut end = None;
        let mut clock = reader.header().start.clock;
        for record in reader.flatten() {
            if let Record::Start(start) = &record {
                clock = start.clock;
            }
            end = end.max(record.time().map(|time| clock.timestamp(time)));
        }
        end
    })
}

/// Which capture and incident: `CAPTURE`, `CAPTURE ID`, or `ID` alone of the capture of this host.
pub(super) fn which(capture: Option<PathBuf>, id: Option<u64>) -> Result<(PathBuf, Option<u64>)> {
    let usual =
        || std::env::var_os("EBUSY_CAPTURE").map_or_else(|| PathBuf::from("/var/lib/ebusy"), PathBuf::from);
    let Some(capture) = capture else {
        let usual = usual();
        anyhow::ensure!(
            usual.exists(),
            "which capture? {} (EBUSY_CAPTURE) does not exist; say: ebusy report DIR",
            said_path(&usual)
        );
        return Ok((usual, id));
    };
    let alone = capture.to_str().and_then(|text| text.parse::<u64>().ok());
    match alone {
        Some(alone) if id.is_none() && !capture.exists() => Ok((which(None, None)?.0, Some(alone))),
        _ => Ok((capture, id)),
    }
}

/// How far a capture was read, on a terminal only.
struct Progress {
    shown: bool,
    enabled: bool,
    records: u64,
    begun: Instant,
    drawn: Instant,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            shown: false,
            // Results that go to the terminal as well would be torn apart by it.
            enabled: std::io::stderr().is_terminal() && !std::io::stdout().is_terminal(),
            records: 0,
            begun: now,
            drawn: now,
        }
    }

    fn step(&mut self, reader: &Reader) {
        self.records += 1;
        if !self.enabled || !self.records.is_multiple_of(LOOK) || self.drawn.elapsed() < DRAW {
            return;
        }
        self.drawn = Instant::now();
        self.shown = true;
        let (read, total) = reader.progress();
        let part = read as f64 / total.max(1) as f64;
        let filled = (part * 30.0) as usize;
        let rate = self.records as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        draw(format_args!(
            "\r[{:<30}] {:3.0} %  {} records, {:.0} a second\x1b[K",
            "#".repeat(filled.min(30)),
            part * 100.0,
            self.records,
            rate
        ));
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            draw(format_args!("\r\x1b[K"));
        }
    }
}
