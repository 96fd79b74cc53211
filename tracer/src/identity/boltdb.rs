//! Reads a value from a bbolt database while its owner writes to it.
//!
//! bbolt's own readers lock the file, which containerd keeps locked for as long as it runs. That is not needed here: a
//! write transaction never changes a page that the last committed one reaches, and the pages that it frees are reused
//! only by the next one. The data read is sound if no transaction was committed meanwhile (bbolt `db.go`,
//! `freelist.go`; the format is that of `page.go` and `meta.go`, the same since bolt 1.0).

use std::{cell::Cell, collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
/// The type in the header of a page.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// Flag of a leaf's entry: the value is a bucket.
const IS_BUCKET: u32 = 0x01;
/// Root page and sequence number, before the page of a small bucket that is stored within its parent.
const BUCKET_HEADER: usize = 16;

/// Containerd's trees are not deeper.
const MAX_DEPTH: usize = 32;
/// A page with its overflow.
const MAX_PAGE: usize = 4 << 20;
/// Entries of one bucket that are read.
const MAX_ENTRIES: usize = 1024;
/// Bytes of the entries that are read: those of a container have some kilobytes. In a damaged file all entries may
/// share the same bytes, and add up to far more than its length.
const MAX_BYTES: usize = 8 << 20;
/// Limit of pages for one answer: ten are usual.
const MAX_PAGES: usize = 512;
/// How often to retry an answer that changed while it was read.
const TRIES: usize = 3;

/// Bytes at an offset: a file, or a test's memory.
pub(super) trait Source {
    /// Fills the buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Source for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let from = self.get(at..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The entries of a bucket, without the buckets in it.
pub(super) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The entries of the bucket that the keys lead to; `None` if there is none, or if it cannot be read.
pub(super) fn bucket(source: &impl Source, path: &[&[u8]]) -> Option<Entries> {
    for _ in 0..TRIES {
        let meta = Meta::newest(source)?;
        let reader = Reader {
            source,
            meta,
            pages_left: Cell::new(MAX_PAGES),
            bytes_left: Cell::new(MAX_BYTES),
        };
        let found = reader.bucket(path);
        // If a transaction came in between, read again.
        if Meta::newest(source)? == meta {
            return found;
        }
    }
    None
}

/// The root of the database as of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: usize,
    root: u64,
    transaction: u64,
}

impl Meta {
    /// There are two, written in turn; one of them may be half-written.
    fn newest(source: &impl Source) -> Option<Self> {
        let first = Self::read(source, 0);
        let sizes = first.map_or(vec![4096, 8192, 16384, 65536], |meta| vec![meta.page_size]);
        let second = sizes
            .into_iter()
            .find_map(|size| Self::read(source, size as u64).filter(|meta| meta.page_size == size));
        [first, second]
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.transaction)
    }

    fn read(source: &impl Source, offset: u64) -> Option<Self> {
        let mut page = [0; PAGE_HEADER + 64];
        source.read_at(&mut page, offset).ok()?;
        let body = page.get(PAGE_HEADER..)?;
        let sound = u16_at(&page, 8)? & META != 0
            && u32_at(body, 0)? == MAGIC
            && u32_at(body, 4)? == VERSION
            && fnv1a(body.get(..56)?) == u64_at(body, 56)?;
        let page_size = u32_at(body, 8)? as usize;
        (sound && (512..=MAX_PAGE).contains(&page_size)).then_some(Self {
            page_size,
            root: u64_at(body, 16)?,
            transaction: u64_at(body, 48)?,
        })
    }
}

/// 64-bit FNV-1a, bbolt's check sum.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

struct Reader<'a, S> {
    source: &'a S,
    meta: Meta,
    pages_left: Cell<usize>,
    bytes_left: Cell<usize>,
}

impl<S: Source> Reader<'_, S> {
    fn bucket(&self, path: &[&[u8]]) -> Option<Entries> {
        let mut page = self.page(self.meta.root)?;
        for key in path {
            let value = self.find(page, key)?;
            let root = u64_at(&value, 0)?;
            page = if root == 0 {
                value.get(BUCKET_HEADER..)?.to_vec()
            } else {
                self.page(root)?
            };
        }
        let mut entries = Entries::new();
        self.collect(&page, &mut entries, MAX_DEPTH)?;
        Some(entries)
    }

    /// A page with its overflow pages.
    fn page(&self, number: u64) -> Option<Vec<u8>> {
        self.pages_left.set(self.pages_left.get().checked_sub(1)?);
        let offset = number.checked_mul(self.meta.page_size as u64)?;
        let mut header = [0; PAGE_HEADER];
        self.source.read_at(&mut header, offset).ok()?;
        let more = u32_at(&header, 12)? as usize;
        let size = more.checked_add(1)?.checked_mul(self.meta.page_size)?;
        if u64_at(&header, 0)? != number || size > MAX_PAGE {
            return None;
        }
        let mut page = vec![0; size];
        self.source.read_at(&mut page, offset).ok()?;
        Some(page)
    }

    /// The bucket of that name in the tree below a page.
    fn find(&self, mut page: Vec<u8>, key: &[u8]) -> Option<Vec<u8>> {
        for _ in 0..MAX_DEPTH {
            if kind(&page)? == LEAF {
                let entry = leaf(&page)?.into_iter().find(|entry| entry.key == key)?;
                return entry.is_bucket.then(|| entry.value.to_vec());
            }
            // The last one that does not begin behind it.
            let next = branch(&page)?
                .into_iter()
                .take_while(|(first, _)| *first <= key)
                .last();
            page = self.page(next?.1)?;
        }
        None
    }

    fn collect(&self, page: &[u8], entries: &mut Entries, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind(page)? {
            LEAF => {
                for entry in leaf(page)?.into_iter().filter(|entry| !entry.is_bucket) {
                    if entries.len() < MAX_ENTRIES {
                        let bytes = entry.key.len() + entry.value.len();
                        self.bytes_left.set(self.bytes_left.get().checked_sub(bytes)?);
                        entries.insert(entry.key.to_vec(), entry.value.to_vec());
                    }
                }
            }
            _ => {
                for (_, number) in branch(page)? {
                    if entries.len() < MAX_ENTRIES {
                        self.collect(&self.page(number)?, entries, depth)?;
                    }
                }
            }
        }
        Some(())
    }
}

fn kind(page: &[u8]) -> Option<u16> {
    u16_at(page, 8).filter(|flags| matches!(*flags, BRANCH | LEAF))
}

/// An entry of a leaf.
struct Entry<'a> {
    key: &'a [u8],
    value: &'a [u8],
    is_bucket: bool,
}

fn leaf(page: &[u8]) -> Option<Vec<Entry<'_>>> {
    let entry = |at: usize| {
        let start = at.checked_add(u32_at(page, at + 4)? as usize)?;
        let middle = start.checked_add(u32_at(page, at + 8)? as usize)?;
        let end = middle.checked_add(u32_at(page, at + 12)? as usize)?;
        Some(Entry {
            key: page.get(start..middle)?,
            value: page.get(middle..end)?,
            is_bucket: u32_at(page, at)? & IS_BUCKET != 0,
        })
    };
    elements(page)?.map(entry).collect()
}

/// First key and page of each child.
fn branch(page: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let element = |at: usize| {
        let start = at.checked_add(u32_at(page, at)? as usize)?;
        let end = start.checked_add(u32_at(page, at + 4)? as usize)?;
        Some((page.get(start..end)?, u64_at(page, at + 8)?))
    };
    elements(page)?.map(element).collect()
}

/// Where the elements of a page are.
fn elements(page: &[u8]) -> Option<impl Iterator<Item = usize> + use<>> {
    let count = usize::from(u16_at(page, 10)?);
    Some((0..count).map(|index| PAGE_HEADER + index * ELEMENT))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod testing {
    //! Databases as bbolt writes them.

    use super::{BRANCH, BUCKET_HEADER, ELEMENT, IS_BUCKET, LEAF, MAGIC, META, PAGE_HEADER, VERSION, fnv1a};

    pub(crate) const PAGE: usize = 4096;

    /// A key, and what is there.
    pub(crate) enum Item {
        Value(&'static str, Vec<u8>),
        /// Stored within its parent.
        Small(String, Vec<Item>),
    }

    /// A leaf, without its padding.
    pub(crate) fn leaf(number: u64, items: &[Item]) -> Vec<u8> {
        let entries: Vec<(u32, Vec<u8>, Vec<u8>)> = items
            .iter()
            .map(|item| match item {
                Item::Value(key, value) => (0, key.as_bytes().to_vec(), value.clone()),
                Item::Small(key, items) => {
                    let mut value = vec![0; BUCKET_HEADER];
                    value.extend(leaf(0, items));
                    (IS_BUCKET, key.as_bytes().to_vec(), value)
                }
            })
            .collect();
        let mut page = header(number, LEAF, entries.len());
        let mut data = Vec::new();
        for (index, (flags, key, value)) in entries.iter().enumerate() {
            let position = (entries.len() - index) * ELEMENT + data.len();
            for word in [*flags, position as u32, key.len() as u32, value.len() as u32] {
                page.extend(word.to_le_bytes());
            }
            data.extend([key.as_slice(), value].concat());
        }
        page.extend(data);
        page
    }

    /// A branch over pages by their first keys.
    pub(crate) fn branch(number: u64, children: &[(&str, u64)]) -> Vec<u8> {
        let mut page = header(number, BRANCH, children.len());
        let mut data: Vec<u8> = Vec::new();
        for (index, (key, child)) in children.iter().enumerate() {
            let position = (children.len() - index) * ELEMENT + data.len();
            page.extend((position as u32).to_le_bytes());
            page.extend((key.len() as u32).to_le_bytes());
            page.extend(child.to_le_bytes());
            data.extend(key.as_bytes());
        }
        page.extend(data);
        page
    }

    fn header(number: u64, flags: u16, count: usize) -> Vec<u8> {
        let mut page = number.to_le_bytes().to_vec();
        page.extend(flags.to_le_bytes());
        page.extend((count as u16).to_le_bytes());
        page.extend([0; 4]);
        page
    }

    pub(crate) fn meta(number: u64, root: u64, transaction: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for word in [MAGIC, VERSION, PAGE as u32, 0] {
            body.extend(word.to_le_bytes());
        }
        for word in [root, 0, 2, 9, transaction] {
            body.extend(word.to_le_bytes());
        }
        body.extend(fnv1a(&body).to_le_bytes());
        let mut page = header(number, META, 0);
        page.extend(body);
        assert_eq!(page.len(), PAGE_HEADER + 64);
        page
    }

    /// Both meta pages, a free list that nobody reads, and these.
    pub(crate) fn database(root: u64, pages: Vec<Vec<u8>>) -> Vec<u8> {
        let mut file = Vec::new();
        let metas = [meta(0, root, 7), meta(1, 3, 6), header(2, 0x10, 0)];
        for mut page in metas.into_iter().chain(pages) {
            let whole = page.len().next_multiple_of(PAGE);
            page.resize(whole, 0);
            // The overflow is in the pages after it.
            page[12..16].copy_from_slice(&((whole / PAGE - 1) as u32).to_le_bytes());
            file.extend(page);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use proptest::prelude::*;

    use super::{
        Source, bucket,
        testing::{Item, PAGE, branch, database, leaf, meta},
    };

    fn value(key: &'static str, value: &str) -> Item {
        Item::Value(key, value.into())
    }

    /// A tree of two levels, a small bucket in it, and a page that runs over.
    fn sample() -> Vec<u8> {
        let labels = Item::Small("labels".into(), vec![value("app", "web"), value("tier", "front")]);
        let first = leaf(
            4,
            &[
                Item::Small("a".into(), vec![]),
                Item::Small("c".into(), vec![labels]),
            ],
        );
        let long = Item::Value("long", vec![b'x'; 2 * PAGE]);
        let second = leaf(5, &[Item::Small("m".into(), vec![value("k", "v")]), long]);
        database(3, vec![branch(3, &[("a", 4), ("m", 5)]), first, second])
    }

    fn texts(file: &impl Source, path: &[&str]) -> Option<Vec<(String, usize)>> {
        let path: Vec<&[u8]> = path.iter().map(|key| key.as_bytes()).collect();
        let entries = bucket(file, &path)?;
        let text = |(key, value): (Vec<u8>, Vec<u8>)| (String::from_utf8(key).unwrap(), value.len());
        Some(entries.into_iter().map(text).collect())
    }

    #[test]
    fn buckets_by_their_path() {
        let file = sample();
        let expect = |entries: &[(&str, usize)]| {
            Some(
                entries
                    .iter()
                    .map(|(key, len)| ((*key).to_owned(), *len))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(texts(&file, &["c", "labels"]), expect(&[("app", 3), ("tier", 5)]));
        assert_eq!(texts(&file, &["m"]), expect(&[("k", 1)]));
        assert_eq!(texts(&file, &["a"]), expect(&[]));
        assert_eq!(texts(&file, &[]), expect(&[("long", 2 * PAGE)]));
        for path in [&["b"][..], &["0"], &["z"], &["c", "x"], &["long"], &["m", "k"]] {
            assert_eq!(texts(&file, path), None, "{path:?}");
        }
    }

    #[test]
    fn entries_that_are_all_the_same_bytes_take_no_more_memory_than_any() {
        let keys: Vec<String> = (0..64).map(|number| format!("{number:04}")).collect();
        let items: Vec<Item> = keys
            .iter()
            .map(|key| Item::Value(Box::leak(key.clone().into_boxed_str()), vec![b'x'; 40_000]))
            .collect();
        let whole = database(3, vec![leaf(3, &items)]);
        assert_eq!(texts(&whole, &[]).map(|entries| entries.len()), Some(64));
        // Each value as long as all of them.
        let mut bad = whole;
        for index in 0..4_usize {
            let at = 3 * PAGE + 16 + index * 16 + 12;
            bad[at..at + 4].copy_from_slice(&2_400_000_u32.to_le_bytes());
        }
        assert_eq!(texts(&bad, &[]), None);
    }

    #[test]
    fn the_newer_meta_page_that_is_whole() {
        let mut file = sample();
        let newer = meta(1, 5, 8);
        file[PAGE..PAGE + newer.len()].copy_from_slice(&newer);
        assert!(texts(&file, &["m"]).is_some() && texts(&file, &["c", "labels"]).is_none());
        // Half-written, it does not count.
        file[PAGE + 40] ^= 1;
        assert!(texts(&file, &["c", "labels"]).is_some());
        // The first one is broken: the second says the size of a page.
        file[PAGE + 40] ^= 1;
        file[20] ^= 1;
        assert!(texts(&file, &["m"]).is_some());
        file[PAGE + 40] ^= 1;
        assert_eq!(texts(&file, &["m"]), None);
    }

    /// Commits a transaction whenever a page beyond the meta pages has been read, so many times.
    struct Busy(Vec<u8>, Cell<u64>);

    impl Source for Busy {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let mut file = self.0.clone();
            let left = self.1.get();
            let newer = meta(1, 3, 40 - left);
            file[PAGE..PAGE + newer.len()].copy_from_slice(&newer);
            if offset == 4 * PAGE as u64 && left > 0 {
                self.1.set(left - 1);
            }
            file.read_at(buffer, offset)
        }
    }

    #[test]
    fn what_changed_meanwhile_is_read_again() {
        assert!(texts(&Busy(sample(), Cell::new(1)), &["c", "labels"]).is_some());
        assert_eq!(texts(&Busy(sample(), Cell::new(19)), &["c", "labels"]), None);
    }

    #[test]
    fn a_circle_of_pages_ends() {
        let file = database(3, vec![branch(3, &[("", 3)])]);
        assert_eq!((texts(&file, &["a"]), texts(&file, &[])), (None, None));
        // Wide and empty.
        let (over, under): (Vec<_>, Vec<_>) = (vec![("", 4); 200], vec![("", 5); 200]);
        let pages = vec![branch(3, &over), branch(4, &under), leaf(5, &[])];
        assert_eq!(texts(&database(3, pages), &[]), None);
    }

    proptest! {
        #[test]
        fn no_change_makes_it_panic(at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()) {
            let mut file = sample();
            let at = 3 * PAGE + at.index(3 * PAGE);
            file[at] = byte;
            let _ = (texts_lossy(&file, &[b"c", b"labels"]), texts_lossy(&file, &[]));
            file.truncate(end.index(file.len()));
            let _ = texts_lossy(&file, &[b"m"]);
        }
    }

    fn texts_lossy(file: &Vec<u8>, path: &[&[u8]]) -> Option<usize> {
        bucket(file, path).map(|entries| entries.len())
    }
}
