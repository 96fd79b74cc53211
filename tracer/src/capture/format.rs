//! The bytes of a segment: see `docs/capture-format.md`. A segment is a chain of zstd frames, so that `zstd -dc` gives
//! its records as JSON lines; what is ours is in skippable frames, which zstd passes over.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{BootClock, boot_nanos},
    model::Timestamp,
    stream::Start,
};

/// Version of the format that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Bytes of JSON that a block has room for; a longer record has a block of its own.
pub const BLOCK: usize = 256 << 10;
/// Bytes of JSON in a block at the most: longer ones are neither written nor believed.
pub const BLOCK_MAX: usize = 64 << 20;
/// So much longer than its zstd frame is the JSON of a block at the most, beside a little that every block may have: what
/// a capture costs whoever reads it follows its size. What packs better is padded; records do not.
const RATIO_MAX: usize = 64;
const SMALL: usize = 4 << 10;
/// Length of what precedes each block.
pub(super) const BLOCK_HEADER: usize = 8 + BLOCK_CONTENT;
/// Length of what precedes the JSON of the header of a segment.
pub(super) const FILE_HEADER: usize = 24;

const SKIPPABLE: [u8; 4] = 0x184d_2a5e_u32.to_le_bytes();
const FILE_MAGIC: &[u8; 8] = b"EBUSYCAP";
const BLOCK_MAGIC: &[u8; 8] = b"EBUSYBLK";
const BLOCK_CONTENT: usize = 40;
/// Length of the JSON of a header at the most.
const HEADER_MAX: u32 = 1 << 20;
/// Speed before size: a node opens files by the ten thousand a second, and alike records pack well at any level.
const LEVEL: i32 = 1;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format; 0 for JSON lines without a header.
    pub format: u32,
    /// Name of the host.
    #[serde(default)]
    pub host: Option<String>,
    /// Architecture of its kernel, as `uname -m` names it.
    #[serde(default)]
    pub architecture: Option<String>,
    /// `boot_id` of the kernel.
    #[serde(default)]
    pub boot: Option<String>,
    /// Number of the segment in its folder; later ones have higher numbers.
    #[serde(default)]
    pub segment: u64,
    /// Records that the run had before this segment.
    #[serde(default)]
    pub first_record: u64,
    /// When the segment was begun.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// Both clocks when the segment was begun.
    #[serde(default)]
    pub clock: Option<Anchor>,
    /// The run: version of ebusy, kernel, tier.
    pub start: Start,
}

fn boot_id() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}

/// A name for a run that begins now: no other one has it, on this host or on any.
#[must_use]
pub fn run_name() -> String {
    let boot = boot_id().unwrap_or_else(|| "unknown".to_owned());
    format!("{boot}/{}/{}", boot_nanos(), std::process::id())
}

/// The two clocks at one moment: between two anchors, a step of the wall clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// `CLOCK_BOOTTIME`, ns.
    pub boot_nanos: u64,
    /// `CLOCK_REALTIME`, ns.
    pub realtime_nanos: i64,
}

/// By so much the clocks must part to tell that one was stepped, ns. Both run at the same rate (the kernel steers
/// `CLOCK_BOOTTIME` as `CLOCK_REALTIME`), so that only a step parts them; a leap second is one.
pub(super) const STEP: i64 = 500_000_000;

impl Anchor {
    /// Both clocks now.
    pub(super) fn now() -> Self {
        let clock = BootClock::sample();
        let boot_nanos = boot_nanos();
        Self {
            boot_nanos,
            realtime_nanos: clock.timestamp(boot_nanos).as_nanos(),
        }
    }

    /// By how much the wall clock is ahead of what a run takes it for, ns.
    pub(super) fn off(self, run: BootClock) -> i64 {
        self.realtime_nanos
            .saturating_sub(run.timestamp(self.boot_nanos).as_nanos())
    }
}

impl Header {
    /// Of a stream of which no more is known.
    #[must_use]
    pub fn of(start: Start) -> Self {
        Self {
            format: 0,
            host: None,
            architecture: None,
            boot: None,
            segment: 0,
            first_record: 0,
            started: None,
            clock: None,
            start,
        }
    }

    /// Of a run on this host, now.
    #[must_use]
    pub fn here(start: Start) -> Self {
        let uname = rustix::system::uname();
        let text = |name: &std::ffi::CStr| Some(name.to_string_lossy().into_owned());
        let mut header = Self {
            format: VERSION,
            host: text(uname.nodename()),
            architecture: text(uname.machine()),
            boot: boot_id(),
            ..Self::of(start)
        };
        header.begin(0, 0);
        header
    }

    /// For the next segment of the same run.
    pub(super) fn begin(&mut self, segment: u64, first_record: u64) {
        let now = Anchor::now();
        self.segment = segment;
        self.first_record = first_record;
        self.started = Some(Timestamp::from_nanos(now.realtime_nanos));
        self.clock = Some(now);
    }
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Records.
    Records,
    /// The run stopped, or went on in another segment.
    End,
    /// What came before, repeated for who does not have it.
    State,
    /// Of a newer version.
    Unknown,
}

impl BlockKind {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Records => 1,
            Self::End => 2,
            Self::State => 3,
        }
    }

    pub(super) fn of_number(number: u32) -> Self {
        match number {
            1 => Self::Records,
            2 => Self::End,
            3 => Self::State,
            _ => Self::Unknown,
        }
    }
}

/// What precedes each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) kind: BlockKind,
    /// Records in it.
    pub(super) count: u32,
    /// Records that the run had before it.
    pub(super) first: u64,
    /// Length of the zstd frame.
    pub(super) stored: u32,
    /// Length of the JSON in it.
    pub(super) raw: u32,
    /// CRC-32 of the zstd frame.
    pub(super) crc: u32,
}

impl BlockHeader {
    fn encode(self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        bytes[..4].copy_from_slice(&SKIPPABLE);
        bytes[4..8].copy_from_slice(&(BLOCK_CONTENT as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(BLOCK_MAGIC);
        bytes[16..20].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.stored.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.raw.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that these bytes are, if they are one and undamaged.
    pub(super) fn decode(bytes: &[u8; BLOCK_HEADER]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let whole = bytes.starts_with(&MARKER) && crc32fast::hash(&bytes[8..44]) == u32_at(44);
        whole.then(|| Self {
            kind: BlockKind::of_number(u32_at(16)),
            count: u32_at(20),
            first: u64::from(u32_at(24)) | u64::from(u32_at(28)) << 32,
            stored: u32_at(32),
            raw: u32_at(36),
            crc: u32_at(40),
        })
    }
}

/// What every block begins with: to find the next one after a damage.
pub(super) const MARKER: [u8; 16] = {
    let mut marker = [0; 16];
    let mut at = 0;
    while at < 16 {
        marker[at] = match at {
            0..4 => SKIPPABLE[at],
            4 => BLOCK_CONTENT as u8,
            5..8 => 0,
            _ => BLOCK_MAGIC[at - 8],
        };
        at += 1;
    }
    marker
};

/// The bytes that a segment begins with.
pub(super) fn encode_header(header: &Header) -> serde_json::Result<Vec<u8>> {
    Ok(encode_json(header.format, &serde_json::to_vec(header)?))
}

/// The same of the JSON of a header.
pub(super) fn encode_json(format: u32, json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_HEADER + json.len());
    bytes.extend_from_slice(&SKIPPABLE);
    bytes.extend_from_slice(&((FILE_HEADER - 8 + json.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(FILE_MAGIC);
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(json).to_le_bytes());
    bytes.extend_from_slice(json);
    bytes
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Preamble {
    /// Not ours.
    Foreign,
    /// Of a version that cannot be read.
    Version(u32),
    /// JSON of this length follows, with this CRC-32.
    Header { length: u32, crc: u32 },
    /// A length that cannot be.
    Length(u32),
}

/// Looks at the first bytes of a file; fewer than all of them may be there.
pub(super) fn preamble(bytes: &[u8]) -> Option<Preamble> {
    let ours = |at: usize, what: &[u8]| {
        let got = bytes.get(at..).unwrap_or_default();
        got.iter().zip(what).all(|(got, what)| got == what)
    };
    if !ours(0, &SKIPPABLE) || !ours(8, FILE_MAGIC) {
        return Some(Preamble::Foreign);
    }
    let bytes: &[u8; FILE_HEADER] = bytes.try_into().ok()?;
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (length, version) = (u32_at(4), u32_at(16));
    if version == 0 || version > VERSION {
        return Some(Preamble::Version(version));
    }
    let json = length
        .checked_sub(FILE_HEADER as u32 - 8)
        .filter(|json| *json <= HEADER_MAX);
    Some(json.map_or(Preamble::Length(length), |length| Preamble::Header {
        length,
        crc: u32_at(20),
    }))
}

/// Makes blocks.
pub(super) struct Blocks(zstd::bulk::Compressor<'static>);

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").finish_non_exhaustive()
    }
}

impl Blocks {
    pub(super) fn new() -> std::io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    /// The bytes of a block with these lines.
    pub(super) fn encode(
        &mut self,
        kind: BlockKind,
        first: u64,
        count: u32,
        lines: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let frame = if lines.is_empty() {
            Vec::new()
        } else {
            padded(self.0.compress(lines)?, lines.len())
        };
        let header = BlockHeader {
            kind,
            count,
            first,
            stored: frame.len() as u32,
            raw: lines.len() as u32,
            crc: crc32fast::hash(&frame),
        };
        let mut bytes = Vec::with_capacity(BLOCK_HEADER + frame.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&frame);
        Ok(bytes)
    }
}

/// Whether a frame of one length may be of so many bytes of JSON.
pub(super) fn is_believed(stored: usize, raw: usize) -> bool {
    stored <= BLOCK_MAX && raw <= BLOCK_MAX && raw <= SMALL + RATIO_MAX * stored
}

/// A frame that is long enough for what is in it: behind it one that zstd passes over.
fn padded(mut frame: Vec<u8>, raw: usize) -> Vec<u8> {
    if !is_believed(frame.len(), raw) {
        let needed = raw.saturating_sub(SMALL).div_ceil(RATIO_MAX);
        let padding = needed.saturating_sub(frame.len() + 8);
        frame.extend_from_slice(&SKIPPABLE);
        frame.extend_from_slice(&(padding as u32).to_le_bytes());
        frame.resize(frame.len() + padding, 0);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_HEADER, BlockHeader, BlockKind, Blocks, Preamble, is_believed, preamble};

    #[test]
    fn a_block_header_comes_back_and_a_flipped_bit_does_not() {
        let bytes = Blocks::new()
            .unwrap()
            .encode(BlockKind::Records, u64::MAX - 1, 2, b"{}\n{}\n")
            .unwrap();
        let header: [u8; BLOCK_HEADER] = bytes[..BLOCK_HEADER].try_into().unwrap();
        let decoded = BlockHeader::decode(&header).unwrap();
        assert_eq!(
            (decoded.kind, decoded.count, decoded.first, decoded.raw),
            (BlockKind::Records, 2, u64::MAX - 1, 6)
        );
        assert_eq!(decoded.stored as usize, bytes.len() - BLOCK_HEADER);
        for at in 0..BLOCK_HEADER {
            let mut bad = header;
            bad[at] ^= 1;
            assert_eq!(BlockHeader::decode(&bad), None, "byte {at}");
        }
    }

    /// What is written is believed, and `zstd -dc` reads it.
    #[test]
    fn a_block_that_packs_too_well_is_padded() {
        let mut blocks = Blocks::new().unwrap();
        for lines in [
            &b"\n"[..],
            &vec![b'\n'; 5000],
            &vec![b'\n'; 1 << 20],
            &vec![b'\n'; 40 << 20],
        ] {
            let bytes = blocks.encode(BlockKind::Records, 0, 1, lines).unwrap();
            let header = BlockHeader::decode(bytes[..BLOCK_HEADER].try_into().unwrap()).unwrap();
            let frame = &bytes[BLOCK_HEADER..];
            assert_eq!(frame.len(), header.stored as usize);
            assert!(is_believed(frame.len(), lines.len()), "{}", lines.len());
            assert!(frame.len() <= 64 + lines.len() / 60, "{}", frame.len());
            assert_eq!(zstd::decode_all(frame).unwrap(), lines);
            let mut bulk = zstd::bulk::Decompressor::new().unwrap();
            assert_eq!(bulk.decompress(frame, lines.len()).unwrap(), lines);
        }
        assert!(!is_believed(1024, 1 << 20));
    }

    #[test]
    fn the_first_bytes_tell_foreign_from_cut() {
        assert_eq!(preamble(b"\x7fELF"), Some(Preamble::Foreign));
        assert_eq!(preamble(b"\x5e\x2a\x4d"), None);
        assert_eq!(
            preamble(b"\x5e\x2a\x4d\x18\x20\0\0\0EBUSYCAP\x09\0\0\0\0\0\0\0"),
            Some(Preamble::Version(9))
        );
    }
}
