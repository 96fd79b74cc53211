//! The format: header, type records, strings, and the index over them.
//!
//! One pass finds the begin of each record and the names for look-ups. Records are decoded on demand.

use std::{ops::Range, sync::Arc};

use super::{error::BtfError, kind::Kind};

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const LAYOUT_HEADER_LEN: usize = 32;
const RECORD_LEN: usize = 12;
/// Longer than any symbol of the kernel (`KSYM_NAME_LEN`); a longer "name" is damage, and is read as empty.
const NAME_MAX: usize = 1024;

/// The types of a kernel, or of a module on top of its kernel's.
pub struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// The begin of each own type, and then the end of the last one.
    starts: Vec<u32>,
    /// Hash of the name, and id, sorted: the types that are looked up by name.
    index: Vec<(u32, u32)>,
    pointer_size: u32,
    /// Id of the first own type.
    first_id: u32,
    /// Offset of the first own string.
    string_base: usize,
    /// The base of the ids and strings of a module's types.
    base: Option<Arc<Btf>>,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Btf")
            .field("types", &self.type_count())
            .finish_non_exhaustive()
    }
}

/// One type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// `None` for a kind that is newer than this code.
    pub(super) kind: Option<Kind>,
    pub(super) name: u32,
    /// Kind, flag and number of elements as they are written.
    pub(super) info: u32,
    /// Its meaning depends on the kind: bitfield offsets, a union, a signed enum.
    pub(super) flag: bool,
    /// Size in bytes, or the type that this one refers to.
    pub(super) size_or_type: u32,
    tail: &'a [u8],
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) type_id: u32,
    /// First bit, from the start of its struct.
    pub(super) bit: u32,
    /// Number of bits of a bitfield; 0 for others.
    pub(super) width: u32,
}

impl<'a> Record<'a> {
    /// The data after the first 12 bytes, in groups of `N` words.
    pub(super) fn words<const N: usize>(self) -> impl Iterator<Item = [u32; N]> + 'a {
        self.tail.chunks_exact(4 * N).map(|chunk| {
            let mut words = [0; N];
            for (word, bytes) in words.iter_mut().zip(chunk.chunks_exact(4)) {
                *word = u32_at(bytes, 0).unwrap_or_default();
            }
            words
        })
    }

    /// The members of a struct or union.
    pub(super) fn members(self) -> impl Iterator<Item = Member> + 'a {
        let packed = self.flag;
        self.words::<3>().map(move |[name, type_id, offset]| {
            // With the flag, the upper byte is the width of a bitfield.
            let (bit, width) = if packed {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            Member {
                name,
                type_id,
                bit,
                width,
            }
        })
    }

    /// Name and value of the variants of an enum.
    pub(super) fn variants(self) -> impl Iterator<Item = (u32, i64)> + 'a {
        let wide = self.kind == Some(Kind::Enum64);
        let narrow = self
            .words::<2>()
            .take(if wide { 0 } else { usize::MAX })
            .map(move |[name, value]| {
                (
                    name,
                    if self.flag {
                        i64::from(value as i32)
                    } else {
                        i64::from(value)
                    },
                )
            });
        let wide = self.words::<3>().take(if wide { usize::MAX } else { 0 });
        narrow.chain(wide.map(|[name, low, high]| (name, (u64::from(low) | u64::from(high) << 32) as i64)))
    }

    /// Name and type of the parameters of a function's prototype.
    pub(super) fn params(self) -> impl Iterator<Item = (u32, u32)> + 'a {
        self.words::<2>().map(|[name, type_id]| (name, type_id))
    }

    /// Element type and number of elements of an array.
    pub(super) fn array(self) -> Option<(u32, u32)> {
        self.words::<3>()
            .next()
            .map(|[element, _index, len]| (element, len))
    }

    /// Encoding (bit 0: signed), first bit and number of bits of an integer.
    pub(super) fn int(self) -> Option<(u32, u32, u32)> {
        self.words::<1>()
            .next()
            .map(|[word]| (word >> 24 & 0xf, word >> 16 & 0xff, word & 0xff))
    }
}

impl Btf {
    /// Takes the bytes of a `.BTF` section or of `/sys/kernel/btf/vmlinux`.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        Self::build(bytes, None)
    }

    /// Takes the bytes of a module's BTF, which continues the numbers and the strings of its kernel's.
    pub fn parse_split(bytes: Vec<u8>, kernel: Arc<Self>) -> Result<Self, BtfError> {
        Self::build(bytes, Some(kernel))
    }

    fn build(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        let header = Header::read(&bytes)?;
        let mut btf = Self {
            bytes,
            strings: header.strings.clone(),
            starts: Vec::new(),
            index: Vec::new(),
            pointer_size: base.as_ref().map_or(8, |base| base.pointer_size),
            first_id: base.as_ref().map_or(1, |base| base.type_count()),
            string_base: base
                .as_ref()
                .map_or(0, |base| base.string_base + base.strings.len()),
            base,
        };
        btf.starts = btf.scan(&header)?;
        btf.index_names();
        Ok(btf)
    }

    /// Number of types, with `void`, which is type 0, and those of the kernel below a module.
    #[must_use]
    pub fn type_count(&self) -> u32 {
        self.first_id + self.starts.len().saturating_sub(1) as u32
    }

    /// Size of a pointer of this kernel.
    pub(super) fn pointer_size(&self) -> u32 {
        self.pointer_size
    }

    /// Finds the begin of each record.
    fn scan(&self, header: &Header) -> Result<Vec<u32>, BtfError> {
        let first = self.first_id;
        let mut at = header.types.start;
        // A rough guess from the average record of real kernels.
        let mut starts = Vec::with_capacity(header.types.len() / 20 + 1);
        while at < header.types.end {
            let id = u32::try_from(starts.len())
                .ok()
                .and_then(|count| first.checked_add(count))
                .ok_or(BtfError::TooManyTypes)?;
            let info = u32_at(&self.bytes, at + 4).ok_or(BtfError::Truncated { id })?;
            let (number, vlen) = split_info(info);
            let (once, each) = match Kind::new(number) {
                Some(kind) => kind.tail(),
                None => header
                    .tail(&self.bytes, number)
                    .ok_or(BtfError::UnknownKind { id, kind: number })?,
            };
            let len = vlen
                .checked_mul(each)
                .and_then(|len| len.checked_add(once + RECORD_LEN));
            let end = len
                .and_then(|len| at.checked_add(len))
                .filter(|end| *end <= header.types.end);
            starts.push(u32::try_from(at).map_err(|_| BtfError::TooManyTypes)?);
            at = end.ok_or(BtfError::Truncated { id })?;
        }
        starts.push(u32::try_from(at).map_err(|_| BtfError::TooManyTypes)?);
        Ok(starts)
    }

    fn index_names(&mut self) {
        let first = self.first_id;
        let mut index = Vec::with_capacity(self.starts.len());
        let mut pointer_size = self.pointer_size;
        for id in first..self.type_count() {
            let Some(record) = self.record(id) else { continue };
            match record.kind {
                Some(kind) if kind.is_indexed() => {
                    let name = self.name(record.name);
                    if !name.is_empty() {
                        index.push((hash(name), id));
                    }
                }
                // BTF does not say how large a pointer is; in every Linux it is as large as a long.
                Some(Kind::Int)
                    if matches!(self.name(record.name), b"long unsigned int" | b"unsigned long") =>
                {
                    if matches!(record.size_or_type, 4 | 8) {
                        pointer_size = record.size_or_type;
                    }
                }
                _ => {}
            }
        }
        index.sort_unstable();
        self.index = index;
        self.pointer_size = pointer_size;
    }

    /// The type with this number; `None` for `void` and for numbers that are not used.
    pub(super) fn record(&self, id: u32) -> Option<Record<'_>> {
        let first = self.first_id;
        let Some(own) = id.checked_sub(first) else {
            return self.base.as_ref().and_then(|base| base.record(id));
        };
        let own = own as usize;
        let range = *self.starts.get(own)? as usize..*self.starts.get(own.checked_add(1)?)? as usize;
        let bytes = self.bytes.get(range)?;
        let info = u32_at(bytes, 4)?;
        Some(Record {
            kind: Kind::new(split_info(info).0),
            name: u32_at(bytes, 0)?,
            info,
            flag: info >> 31 == 1,
            size_or_type: u32_at(bytes, 8)?,
            tail: bytes.get(RECORD_LEN..)?,
        })
    }

    /// All types, those of the kernel below a module first.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        (1..self.type_count()).filter_map(|id| self.record(id))
    }

    /// The string at this offset; empty where there is none.
    pub(super) fn name(&self, offset: u32) -> &[u8] {
        let Some(own) = (offset as usize).checked_sub(self.string_base) else {
            return self.base.as_ref().map_or(&[], |base| base.name(offset));
        };
        let text = self
            .bytes
            .get(self.strings.clone())
            .and_then(|strings| strings.get(own..))
            .unwrap_or(&[]);
        let text = text.get(..NAME_MAX).unwrap_or(text);
        text.iter()
            .position(|byte| *byte == 0)
            .and_then(|end| text.get(..end))
            .unwrap_or(&[])
    }

    /// All types with this name of the kinds that `wanted` accepts, a module's own last.
    pub(super) fn named(&self, name: &str, wanted: impl Fn(Kind) -> bool) -> Vec<(u32, Record<'_>)> {
        let mut found = Vec::new();
        self.collect_named(name.as_bytes(), &wanted, &mut found);
        found
    }

    fn collect_named<'a>(
        &'a self,
        name: &[u8],
        wanted: &impl Fn(Kind) -> bool,
        found: &mut Vec<(u32, Record<'a>)>,
    ) {
        if let Some(base) = &self.base {
            base.collect_named(name, wanted, found);
        }
        let hash = hash(name);
        let start = self.index.partition_point(|(other, _)| *other < hash);
        for (_, id) in self
            .index
            .iter()
            .skip(start)
            .take_while(|(other, _)| *other == hash)
        {
            if let Some(record) = self.record(*id)
                && record.kind.is_some_and(wanted)
                && self.name(record.name) == name
            {
                found.push((*id, record));
            }
        }
    }
}

/// The places of the sections, checked against the length of the input.
struct Header {
    types: Range<usize>,
    strings: Range<usize>,
    /// Lengths of the records by kind, which newer kernels add.
    layout: Range<usize>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, BtfError> {
        let len = bytes.len();
        let short = || BtfError::TooShort { len };
        match bytes.first_chunk::<2>().map(|magic| u16::from_le_bytes(*magic)) {
            Some(MAGIC) => {}
            Some(found) if found == MAGIC.swap_bytes() => return Err(BtfError::BigEndian),
            Some(found) => return Err(BtfError::BadMagic { found }),
            None => return Err(short()),
        }
        match bytes.get(2) {
            Some(1) => {}
            Some(found) => return Err(BtfError::BadVersion { found: *found }),
            None => return Err(short()),
        }
        let word = |at| u32_at(bytes, at).map(|word| word as usize).ok_or_else(short);
        let header = word(4)?;
        if header < HEADER_LEN || header > len {
            return Err(BtfError::BadSection {
                section: "header",
                len,
            });
        }
        let section = |name, offset: usize, size: usize| {
            let start = header.checked_add(word(offset)?);
            let range = start.and_then(|start| Some(start..start.checked_add(word(size).ok()?)?));
            range
                .filter(|range| range.end <= len)
                .ok_or(BtfError::BadSection { section: name, len })
        };
        let layout = if header >= LAYOUT_HEADER_LEN {
            section("layout", 24, 28)?
        } else {
            header..header
        };
        Ok(Self {
            types: section("type", 8, 12)?,
            strings: section("string", 16, 20)?,
            layout,
        })
    }

    /// Length of the tail of a kind that is newer than this code, if the BTF itself has it.
    fn tail(&self, bytes: &[u8], kind: u8) -> Option<(usize, usize)> {
        let entry = bytes
            .get(self.layout.clone())?
            .get(4 * usize::from(kind)..)?
            .first_chunk::<4>()?;
        Some((usize::from(entry[0]), usize::from(entry[1])))
    }
}

/// Kind and number of elements. Kernels before 7.1 use fewer bits for both and keep the rest 0.
fn split_info(info: u32) -> (u8, usize) {
    ((info >> 24 & 0x7f) as u8, (info & 0x00ff_ffff) as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|word| u32::from_le_bytes(*word))
}

/// FNV-1a: short names, no need to withstand an attacker, who could only make look-ups slow.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::testing::Builder;

    fn refused(bytes: &[u8]) -> BtfError {
        Btf::parse(bytes.to_vec()).unwrap_err()
    }

    #[test]
    fn header() {
        let good = Builder::new().bytes();
        assert_eq!(Btf::parse(good.clone()).unwrap().type_count(), 1);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            refused(&bytes)
        };
        assert!(matches!(refused(&[]), BtfError::TooShort { len: 0 }));
        assert!(matches!(
            refused(b"\x7fELF"),
            BtfError::BadMagic { found: 0x457f }
        ));
        assert!(matches!(refused(&good[..6]), BtfError::TooShort { len: 6 }));
        assert!(matches!(
            refused(&good[..20]),
            BtfError::BadSection {
                section: "header",
                len: 20
            }
        ));
        assert!(matches!(refused(&[0xeb, 0x9f, 1, 0]), BtfError::BigEndian));
        assert!(matches!(with(2, 2), BtfError::BadVersion { found: 2 }));
        assert!(matches!(
            with(4, 23),
            BtfError::BadSection {
                section: "header",
                ..
            }
        ));
        assert!(matches!(
            with(4, 200),
            BtfError::BadSection {
                section: "header",
                ..
            }
        ));
        assert!(matches!(
            with(15, 255),
            BtfError::BadSection { section: "type", .. }
        ));
        assert!(matches!(
            with(23, 255),
            BtfError::BadSection {
                section: "string",
                ..
            }
        ));
    }

    #[test]
    fn a_record_that_is_cut_off_is_named() {
        let mut builder = Builder::new();
        builder.int("int", 4);
        // It claims five members and has none.
        builder.raw(Kind::Struct as u8, false, "short", 5, 8, &[]);
        assert!(matches!(refused(&builder.bytes()), BtfError::Truncated { id: 2 }));
    }

    #[test]
    fn a_kind_from_the_future_is_refused_or_skipped_by_the_layout_section() {
        let mut builder = Builder::new();
        builder.raw(20, false, "future", 2, 0, &[1, 2, 3, 4, 5]);
        let int = builder.int("int", 4);
        builder.structure("after", 4, &[("x", int, 0, 0)]);
        assert!(matches!(
            refused(&builder.bytes()),
            BtfError::UnknownKind { id: 1, kind: 20 }
        ));

        let mut layout = vec![0; 21 * 4];
        // Four bytes once, and eight for each of its two elements.
        layout[80] = 4;
        layout[81] = 8;
        let btf = Btf::parse(builder.bytes_with_layout(&layout)).unwrap();
        assert_eq!(btf.struct_size("after").unwrap(), 4);
        assert_eq!(btf.field("after.x").unwrap().size, 4);
    }

    #[test]
    fn a_module_goes_on_where_its_kernel_ends() {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let inner = builder.structure("inner", 8, &[("a", int, 0, 0), ("b", int, 32, 0)]);
        let strings = builder.strings_len();
        let kernel = Arc::new(builder.parse());

        let mut builder = Builder::split(&kernel, strings);
        builder.structure("outer", 16, &[("before", int, 0, 0), ("inner", inner, 64, 0)]);
        let module = Btf::parse_split(builder.bytes(), Arc::clone(&kernel)).unwrap();
        assert_eq!(module.type_count(), 4);
        assert_eq!(module.field("outer.inner.b").unwrap().offset, 12);
        assert_eq!(module.field("inner.b").unwrap().offset, 4);
        assert!(!kernel.has_struct("outer"));
    }
}
