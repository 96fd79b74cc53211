//! Reads a capture, in order, in constant memory, past all that is damaged.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use super::{
    error::CaptureError,
    format::{BlockKind, Header, STEP},
    lines::Lines,
    notes::{Gap, Notes, Place, Step},
    opened::Opened,
    segment::{Piece, Segment},
};
use crate::{
    probe::Losses,
    stream::{Lost, Noise, Record},
};

/// Sources whose losses are believed at the most: whoever wrote the file decides how many it names.
const NOISE_MAX: usize = 64;

/// A damage whose cost the next block tells.
#[derive(Debug)]
struct Damage {
    file: PathBuf,
    offset: u64,
    bytes: u64,
    reason: String,
}

/// The records of a capture.
#[derive(Debug)]
pub struct Reader {
    /// Segments to come, in order.
    files: VecDeque<(PathBuf, io::Result<File>)>,
    /// The one that is being read.
    segment: Option<Source>,
    header: Header,
    /// Records of the block that is being read.
    lines: Lines,
    /// They repeat what came before: those up to this time are known already.
    known_until: Option<u64>,
    /// What goes before those.
    ready: VecDeque<Result<Record, CaptureError>>,
    damage: Option<Damage>,
    /// Of the run that is being read: its name, and the number of its next record.
    run: Option<(Option<String>, u64)>,
    /// By how much the wall clock is off from what it was when that run began, ns.
    stepped: i64,
    /// An earlier segment of that run was read.
    continues: bool,
    /// What the run last told of losses, and what is missing in the files besides.
    told: Losses,
    noise: Vec<Noise>,
    missing: u64,
    /// Records that could not be read, of which that was not told yet.
    untold: bool,
    /// Time of the latest record, boot clock, ns.
    time: u64,
    notes: Notes,
    read: u64,
    total: u64,
}

#[derive(Debug)]
enum Source {
    Blocks {
        segment: Box<Segment>,
        ended: bool,
    },
    /// What an older version wrote: no blocks, a file of JSON lines.
    Plain {
        file: PathBuf,
        from: BufReader<File>,
        offset: u64,
    },
}

impl Reader {
    /// Opens a folder of segments, or one segment, and reads it.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::new(Opened::open(path)?)
    }

    /// Reads what is open. Of a folder, a segment that cannot be read is an item of the iteration; it is an error here if
    /// there is no other.
    pub fn new(opened: Opened) -> Result<Self, CaptureError> {
        let Opened { path, mut files } = opened;
        let total = files.iter().map(|(_, file)| length(file)).sum();
        let (mut ready, mut read): (VecDeque<Result<Record, _>>, _) = (VecDeque::new(), 0);
        let (source, header) = loop {
            let Some((path_of, file)) = files.pop_front() else {
                let first = ready.pop_front().and_then(Result::err);
                return Err(first.unwrap_or(CaptureError::NoSegments { folder: path }));
            };
            let length = length(&file);
            match Source::open(&path_of, file) {
                Ok(opened) => break opened,
                Err(error) => {
                    read += length;
                    ready.push_back(Err(error));
                }
            }
        };
        let mut reader = Self {
            files,
            segment: None,
            header: header.clone(),
            lines: Lines::default(),
            known_until: None,
            ready,
            damage: None,
            run: None,
            stepped: 0,
            continues: false,
            told: Losses::default(),
            noise: Vec::new(),
            missing: 0,
            untold: false,
            time: 0,
            notes: Notes::default(),
            read,
            total,
        };
        reader.begin(source, header);
        Ok(reader)
    }

    /// The header of the segment that is being read; before the first record, of the first one.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was noticed so far.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Bytes read, and bytes in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let offset = self.segment.as_ref().map_or(0, Source::offset);
        (self.read + offset, self.total)
    }

    /// Begins a segment.
    fn begin(&mut self, source: Source, header: Header) {
        self.notes.segments += 1;
        let before = self.header.segment;
        let same_run = self.run.as_ref().is_some_and(|(run, _)| *run == header.start.run);
        if header
            .architecture
            .as_deref()
            .is_some_and(|name| name != std::env::consts::ARCH)
        {
            self.notes.foreign_architecture.clone_from(&header.architecture);
        }
        if self.run.is_some() && header.segment > before + 1 {
            let expected = self.run.as_ref().map_or(0, |(_, next)| *next);
            self.notes.gaps.push(Gap {
                before: source.file().to_owned(),
                segments: header.segment - before - 1,
                records: same_run.then(|| header.first_record.saturating_sub(expected)),
            });
        }
        self.continues = same_run;
        if !same_run {
            self.settle_damage(None);
            self.time = 0;
            self.notes.runs += 1;
            self.run = Some((header.start.run.clone(), header.first_record));
            self.told = Losses::default();
            self.noise.clear();
            self.missing = 0;
            self.stepped = 0;
            if matches!(source, Source::Blocks { .. }) {
                self.ready.push_back(Ok(Record::Start(header.start.clone())));
            }
        }
        let stepped = header
            .clock
            .map_or(self.stepped, |clock| clock.off(header.start.clock));
        let nanos = stepped.saturating_sub(self.stepped);
        if nanos.saturating_abs() > STEP {
            self.stepped = stepped;
            self.notes.steps.push(Step {
                before: source.file().to_owned(),
                nanos,
            });
        }
        self.header = header;
        self.segment = Some(source);
    }

    /// Tells a damage, now that it is known how many records it cost.
    fn settle_damage(&mut self, records: Option<u64>) {
        if let Some(Damage {
            file,
            offset,
            bytes,
            reason,
        }) = self.damage.take()
        {
            self.ready.push_back(Err(CaptureError::Damaged {
                file,
                offset,
                bytes,
                records,
                reason,
            }));
        }
    }

    fn note_damage(&mut self, damage: Damage) {
        self.notes.damaged += 1;
        // Two in a row cost a number of records that is known for both together only.
        self.settle_damage(None);
        self.damage = Some(damage);
    }

    /// Reads on until there is a record, or something else to tell; whether there may be more.
    fn advance(&mut self) -> bool {
        match &mut self.segment {
            None => {
                let Some((path, file)) = self.files.pop_front() else {
                    self.settle_damage(None);
                    return false;
                };
                let length = length(&file);
                match Source::open(&path, file) {
                    Ok((source, header)) => self.begin(source, header),
                    Err(error) => {
                        self.notes.damaged += 1;
                        self.read += length;
                        self.ready.push_back(Err(error));
                    }
                }
            }
            Some(Source::Blocks { segment, ended }) => match segment.next() {
                Ok(Some(piece)) => {
                    *ended |= matches!(
                        piece,
                        Piece::Block {
                            kind: BlockKind::End,
                            ..
                        }
                    );
                    let file = segment.file.clone();
                    self.piece(file, piece);
                }
                Ok(None) => {
                    if !*ended {
                        self.notes.unclosed.push(segment.file.clone());
                    }
                    self.end_segment();
                }
                Err(error) => {
                    let (file, offset) = (segment.file.clone(), segment.offset);
                    self.ready
                        .push_back(Err(CaptureError::Read { file, offset, error }));
                    self.end_segment();
                }
            },
            Some(Source::Plain { file, from, offset }) => {
                // A line has no end that could be trusted: as much as a block at the most.
                let mut line = Vec::new();
                let most = super::BLOCK_MAX as u64;
                let read = io::Read::take(from, most).read_until(b'\n', &mut line);
                let at = *offset;
                *offset += line.len() as u64;
                match read {
                    Ok(0) => self.end_segment(),
                    Ok(_) => self.lines = Lines::new(file.clone(), at, line),
                    Err(error) => {
                        let file = file.clone();
                        self.ready.push_back(Err(CaptureError::Read {
                            file,
                            offset: at,
                            error,
                        }));
                        self.end_segment();
                    }
                }
            }
        }
        true
    }

    fn end_segment(&mut self) {
        if std::mem::take(&mut self.untold) {
            self.tell_missing(self.time);
        }
        self.read += self.segment.take().as_ref().map_or(0, Source::offset);
    }

    fn piece(&mut self, file: PathBuf, piece: Piece) {
        match piece {
            Piece::Damage {
                offset,
                bytes,
                reason,
            } => {
                self.note_damage(Damage {
                    file,
                    offset,
                    bytes,
                    reason: reason.to_owned(),
                });
            }
            Piece::Torn { offset, bytes } => self.notes.torn.push(Place { file, offset, bytes }),
            Piece::Block {
                kind: BlockKind::Unknown,
                ..
            } => self.notes.unknown_blocks += 1,
            Piece::Block {
                kind: BlockKind::End,
                first,
                ..
            } => self.expect(first, 0),
            Piece::Block {
                kind: BlockKind::State,
                first,
                offset,
                lines,
                ..
            } => {
                // Who has all that came before does not need it again.
                let next = self.run.as_ref().map_or(0, |(_, next)| *next);
                if !self.continues || next != first || self.damage.is_some() {
                    self.expect(first, 0);
                    self.known_until = self.continues.then_some(self.time);
                    self.lines = Lines::new(file, offset, lines);
                }
            }
            Piece::Block {
                kind: BlockKind::Records,
                first,
                count,
                offset,
                lines,
            } => {
                self.known_until = None;
                self.lines = Lines::new(file, offset, lines);
                self.expect(first, u64::from(count));
            }
        }
    }

    /// A block has records from number `first` on: tells what is missing before it.
    fn expect(&mut self, first: u64, count: u64) {
        let Some((_, next)) = &mut self.run else { return };
        let missing = first.saturating_sub(*next);
        *next = first.saturating_add(count);
        if missing > 0 || self.damage.is_some() {
            self.notes.lost_records = self.notes.lost_records.saturating_add(missing);
            self.missing = self.missing.saturating_add(missing);
            self.settle_damage(Some(missing));
            if missing > 0 {
                let time = self.lines.first_time().unwrap_or(0).max(self.time);
                self.tell_missing(time);
            }
        }
    }

    /// What is missing is lost for the analysis as well: it takes no history for proof then.
    fn tell_missing(&mut self, time: u64) {
        let losses = self.with_missing(self.told.clone());
        let noise = self.noise.clone();
        self.ready
            .push_back(Ok(Record::Lost(Lost { time, losses, noise })));
    }

    fn is_known(&self, record: &Record) -> bool {
        self.known_until
            .is_some_and(|until| record.time().is_some_and(|time| time <= until))
    }

    fn with_missing(&self, mut losses: Losses) -> Losses {
        losses.add("capture: record missing in the file", self.missing);
        losses
    }
}

impl Iterator for Reader {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.lines.next() {
                Some(Ok(Some(record))) if self.is_known(&record) => {}
                Some(Ok(Some(mut record))) => {
                    let before = self.time;
                    self.time = self.time.max(record.time().unwrap_or(0));
                    if let Record::Lost(lost) = &mut record {
                        self.told = lost.losses.in_brief();
                        lost.noise.truncate(NOISE_MAX);
                        for noise in &mut lost.noise {
                            noise.losses = noise.losses.in_brief();
                        }
                        self.noise.clone_from(&lost.noise);
                        lost.losses = self.with_missing(std::mem::take(&mut lost.losses));
                    }
                    if std::mem::take(&mut self.untold) {
                        self.tell_missing(before);
                        self.ready.push_back(Ok(record));
                        continue;
                    }
                    return Some(Ok(record));
                }
                Some(Ok(None)) => self.notes.unknown_records += 1,
                Some(Err(error)) => {
                    self.notes.damaged += 1;
                    self.notes.lost_records = self.notes.lost_records.saturating_add(1);
                    self.missing = self.missing.saturating_add(1);
                    // Of many in a row once, with what comes next: each tells all losses anew.
                    self.untold = true;
                    return Some(Err(error));
                }
                None => {
                    if !self.advance() {
                        return self.ready.pop_front();
                    }
                }
            }
        }
    }
}

impl Source {
    fn open(file: &Path, opened: io::Result<File>) -> Result<(Self, Header), CaptureError> {
        let failed = |error| CaptureError::Read {
            file: file.to_owned(),
            offset: 0,
            error,
        };
        let mut opened = opened.map_err(failed)?;
        // It may have been read before.
        io::Seek::rewind(&mut opened).map_err(failed)?;
        let mut from = BufReader::with_capacity(64 << 10, opened);
        match from.fill_buf().map_err(failed)?.first() {
            None => Err(CaptureError::Empty {
                file: file.to_owned(),
            }),
            Some(b'{') => {
                // Its first record is its header; it is read again as a record.
                let mut line = Vec::new();
                io::Read::take(&mut from, super::BLOCK_MAX as u64)
                    .read_until(b'\n', &mut line)
                    .map_err(failed)?;
                let Ok(Record::Start(start)) = serde_json::from_slice(&line) else {
                    return Err(CaptureError::Start {
                        file: file.to_owned(),
                    });
                };
                io::Seek::rewind(&mut from).map_err(failed)?;
                let plain = Self::Plain {
                    file: file.to_owned(),
                    from,
                    offset: 0,
                };
                Ok((plain, Header::of(start)))
            }
            Some(_) => {
                let segment = Box::new(Segment::open(file, from)?);
                let header = segment.header.clone();
                Ok((
                    Self::Blocks {
                        segment,
                        ended: false,
                    },
                    header,
                ))
            }
        }
    }

    fn file(&self) -> &Path {
        match self {
            Self::Blocks { segment, .. } => &segment.file,
            Self::Plain { file, .. } => file,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Self::Blocks { segment, .. } => segment.offset,
            Self::Plain { offset, .. } => *offset,
        }
    }
}

fn length(file: &io::Result<File>) -> u64 {
    let metadata = file.as_ref().ok().and_then(|file| file.metadata().ok());
    metadata.map_or(0, |metadata| metadata.len())
}
