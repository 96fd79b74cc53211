//! Kernel memory as the walks see it: batches of reads, and chains of links. Everything read is hostile: an
//! address may be stale, a list may have no end.

use std::collections::{HashMap, HashSet};

use tracer_common::CHASE_MAX;

use super::budget::Budget;

/// Kernel memory, live or recorded. Walks do not call these, but what `dyn KernelMemory` makes of them: that is
/// bounded, whatever is in memory.
pub trait KernelMemory {
    /// Reads `len` bytes at each address plus `offset`.
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch;

    /// Follows `next = *(node + offset)` from `first` until `stop` or null, `most` nodes at the most, which is no more
    /// than [`CHASE_MAX`].
    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links;

    /// What may still be read.
    fn budget(&self) -> &Budget;
}

/// A part of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// The nodes, without the stop.
    pub nodes: Vec<u64>,
    /// Why there are no more.
    pub end: End,
}

impl Links {
    /// Follows links by what gives the next one, if it can be read.
    pub(super) fn follow(first: u64, stop: u64, most: usize, next: impl Fn(u64) -> Option<u64>) -> Self {
        let mut nodes = Vec::new();
        let mut node = first;
        while node != stop && node != 0 {
            if nodes.len() >= most {
                return Self {
                    nodes,
                    end: End::More,
                };
            }
            nodes.push(node);
            match next(node) {
                Some(next) => node = next,
                None => {
                    return Self {
                        nodes,
                        end: End::Fault,
                    };
                }
            }
        }
        Self {
            nodes,
            end: End::Stop,
        }
    }
}

/// How a part of a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the stop or at null.
    Stop,
    /// The last node could not be read.
    Fault,
    /// There is more than was asked for.
    More,
}

/// What a batch of reads brought.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    len: usize,
    data: Vec<u8>,
    readable: Vec<bool>,
}

impl Batch {
    /// An empty batch of pieces of `len` bytes, with room for `count`.
    #[must_use]
    pub fn new(len: usize, count: usize) -> Self {
        Self {
            len,
            data: Vec::with_capacity(len * count),
            readable: Vec::with_capacity(count),
        }
    }

    /// Adds a piece; `None` for an address that could not be read.
    pub fn push(&mut self, piece: Option<&[u8]>) {
        let start = self.data.len();
        self.data.resize(start + self.len, 0);
        let whole = piece.filter(|piece| piece.len() == self.len);
        if let Some(piece) = whole {
            self.data[start..].copy_from_slice(piece);
        }
        self.readable.push(whole.is_some());
    }

    /// Piece `index`, if it could be read.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if !*self.readable.get(index)? {
            return None;
        }
        self.data.get(index * self.len..(index + 1) * self.len)
    }

    /// All pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.readable.len()).map(|index| self.get(index))
    }

    /// Pieces as little-endian words; those that are not readable are `None`.
    pub fn words(&self) -> impl Iterator<Item = Option<u64>> {
        self.iter().map(|piece| u64_at(piece?, 0))
    }
}

/// What a chase found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The nodes, without the stop.
    pub nodes: Vec<u64>,
    /// Whether the stop (or null) was reached: if not, the list changed under the walk, is too long, or goes round.
    pub complete: bool,
}

/// The word at `offset` of a piece.
#[must_use]
pub(super) fn u64_at(piece: &[u8], offset: usize) -> Option<u64> {
    let bytes = piece.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The half word at `offset` of a piece.
#[must_use]
pub(super) fn u32_at(piece: &[u8], offset: usize) -> Option<u32> {
    let bytes = piece.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Single reads and common shapes, on top of the trait.
impl dyn KernelMemory + '_ {
    /// Reads `len` bytes at each address plus `offset`; what the budget has no room for is not readable.
    #[must_use]
    pub fn read_batch(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let allowed = self.budget().reads(addresses.len(), len);
        let mut batch = self.read(&addresses[..allowed], offset, len);
        for _ in allowed..addresses.len() {
            batch.push(None);
        }
        batch
    }

    /// Follows `next = *(node + offset)` from `first` until `stop` or null, `most` nodes at the most. No node is in a
    /// chain twice: one that goes round ends where it meets itself.
    #[must_use]
    pub fn chase(&self, first: u64, offset: u32, stop: u64, most: usize) -> Chain {
        let mut chain = Chain::default();
        let mut seen = HashSet::new();
        let mut node = first;
        while !self.budget().is_spent() {
            let room = most.saturating_sub(chain.nodes.len()).min(CHASE_MAX);
            let Links { mut nodes, end } = self.links(node, offset, stop, room);
            if !self.budget().steps(nodes.len()) {
                return chain;
            }
            // The last node of a full part is where the next one starts.
            let more = end == End::More && nodes.len() == CHASE_MAX && chain.nodes.len() + nodes.len() < most;
            if more {
                node = nodes.pop().unwrap_or(stop);
            }
            for found in nodes {
                if !seen.insert(found) {
                    return chain;
                }
                chain.nodes.push(found);
            }
            if !more {
                chain.complete = end == End::Stop;
                return chain;
            }
        }
        chain
    }

    /// One word.
    #[must_use]
    pub fn word(&self, address: u64, offset: u32) -> Option<u64> {
        self.read_batch(&[address], offset, 8).words().next().flatten()
    }

    /// One half word.
    #[must_use]
    pub fn half(&self, address: u64, offset: u32) -> Option<u32> {
        let batch = self.read_batch(&[address], offset, 4);
        u32_at(batch.get(0)?, 0)
    }

    /// A word of each address.
    #[must_use]
    pub fn words(&self, addresses: &[u64], offset: u32) -> Vec<Option<u64>> {
        self.read_batch(addresses, offset, 8).words().collect()
    }

    /// A half word of each address.
    #[must_use]
    pub fn halves(&self, addresses: &[u64], offset: u32) -> Vec<Option<u32>> {
        let batch = self.read_batch(addresses, offset, 4);
        batch.iter().map(|piece| u32_at(piece?, 0)).collect()
    }

    /// The members of a `list_head` ring, as the addresses of their links.
    #[must_use]
    pub fn ring(&self, head: u64, most: usize) -> Chain {
        match self.word(head, 0) {
            Some(first) => self.chase(first, 0, head, most),
            None => Chain::default(),
        }
    }

    /// A NUL-terminated string of at most `most` bytes.
    #[must_use]
    pub fn string(&self, address: u64, most: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        // In small pieces that do not cross a page: what follows the string may not be readable.
        while text.len() < most {
            let at = address.checked_add(text.len() as u64)?;
            let len = (64 - (at % 64) as usize).min(most - text.len());
            let batch = self.read_batch(&[at], 0, len);
            let piece = batch.get(0)?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return Some(text);
            }
            text.extend_from_slice(piece);
        }
        Some(text)
    }
}

/// Whether an address can be one of the kernel's: from 0xff00... with five levels of page tables on x86-64, 0xfff0...
/// on arm64 with 52 bits, 0xffff8... otherwise; the last page is of error pointers.
#[must_use]
pub(super) fn is_kernel_address(address: u64) -> bool {
    (0xff00_0000_0000_0000..0xffff_ffff_ffff_f000).contains(&address)
}

/// Recorded memory: what a test has.
#[derive(Debug, Clone, Default)]
pub struct RecordedMemory {
    pages: HashMap<u64, Box<Page>>,
    pub(super) budget: Budget,
}

/// Bytes of a page, and which of them are known.
#[derive(Debug, Clone)]
struct Page {
    bytes: [u8; PAGE],
    known: [bool; PAGE],
}

const PAGE: usize = 4096;

impl RecordedMemory {
    /// Writes bytes.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let (page, at) = split(address.wrapping_add(index as u64));
            let page = self.pages.entry(page).or_insert_with(|| {
                Box::new(Page {
                    bytes: [0; PAGE],
                    known: [false; PAGE],
                })
            });
            (page.bytes[at], page.known[at]) = (*byte, true);
        }
    }

    /// Writes a word.
    pub fn write_word(&mut self, address: u64, word: u64) {
        self.write(address, &word.to_le_bytes());
    }

    /// Everything that is known, in order, as runs of bytes within pages.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, &[u8])> {
        let mut runs = Vec::new();
        for (number, page) in &self.pages {
            let mut at = 0;
            for same in page.known.chunk_by(|a, b| a == b) {
                if same[0] {
                    runs.push((number * PAGE as u64 + at as u64, &page.bytes[at..at + same.len()]));
                }
                at += same.len();
            }
        }
        runs.sort_unstable();
        runs
    }

    fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let (page, at) = split(address.wrapping_add(bytes.len() as u64));
            let page = self.pages.get(&page)?;
            let end = PAGE.min(at + len - bytes.len());
            if !page.known[at..end].iter().all(|known| *known) {
                return None;
            }
            bytes.extend_from_slice(&page.bytes[at..end]);
        }
        Some(bytes)
    }
}

/// The page of an address, and where in it.
fn split(address: u64) -> (u64, usize) {
    (address / PAGE as u64, (address % PAGE as u64) as usize)
}

impl KernelMemory for RecordedMemory {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let mut batch = Batch::new(len, addresses.len());
        for address in addresses {
            batch.push(
                self.bytes(address.wrapping_add(u64::from(offset)), len)
                    .as_deref(),
            );
        }
        batch
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        let next = |node: u64| u64_at(&self.bytes(node.wrapping_add(u64::from(offset)), 8)?, 0);
        Links::follow(first, stop, most, next)
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Chain, KernelMemory, RecordedMemory};

    #[test]
    fn a_ring_ends_at_its_head_and_an_endless_one_at_the_cap() {
        let mut memory = RecordedMemory::default();
        memory.write_word(0x1000, 0x2000);
        memory.write_word(0x2000, 0x3000);
        memory.write_word(0x3000, 0x1000);
        let memory: &dyn KernelMemory = &memory;
        let chain = memory.ring(0x1000, 10);
        assert_eq!((chain.nodes, chain.complete), (vec![0x2000, 0x3000], true));
        let short = memory.chase(0x2000, 0, 0x9000, 2);
        assert_eq!((short.nodes, short.complete), (vec![0x2000, 0x3000], false));
    }

    #[test]
    fn a_chain_that_goes_round_ends_where_it_meets_itself() {
        for length in [1, 2, 3, 1023, 1024, 1025, 5000_u64] {
            let mut memory = RecordedMemory::default();
            // What leads into the circle is no part of it.
            memory.write_word(0x8, 0x1000);
            for node in 0..length {
                memory.write_word(0x1000 + node * 8, 0x1000 + (node + 1) % length * 8);
            }
            let memory: &dyn KernelMemory = &memory;
            let chain = memory.chase(0x8, 0, 0x7_0000_0000, 1 << 20);
            assert_eq!((chain.nodes.len() as u64, chain.complete), (length + 1, false));
            let whole = memory.chase(0x1000, 0, 0x1000 + (length - 1) * 8, 1 << 20);
            assert_eq!((whole.nodes.len() as u64, whole.complete), (length - 1, true));
        }
    }

    #[test]
    fn what_the_budget_has_no_room_for_is_not_readable() {
        let mut memory = RecordedMemory {
            budget: Budget::of(20),
            ..RecordedMemory::default()
        };
        for node in 0..100 {
            memory.write_word(node * 8, node * 8 + 8);
        }
        let memory: &dyn KernelMemory = &memory;
        let words = memory.words(&[8; 30], 0);
        assert_eq!((words[19], words[20], words[29]), (Some(16), None, None));
        assert!(memory.budget().is_spent());
        assert_eq!(memory.chase(8, 0, 0, 100), Chain::default());
        // The next look begins anew.
        memory.budget().begin();
        assert_eq!(memory.word(8, 0), Some(16));
        assert!(!memory.budget().is_spent());
    }

    #[test]
    fn a_string_ends_at_its_nul_or_at_the_cap() {
        let mut memory = RecordedMemory::default();
        memory.write(0x10f8, &[b'x'; 8]);
        memory.write(0x1100, &[b'y'; 64]);
        memory.write(0x1140, b"end\0");
        memory.write(0x1144, &[0; 60]);
        let memory: &dyn KernelMemory = &memory;
        assert_eq!(memory.string(0x1138, 64).unwrap(), b"yyyyyyyyend");
        assert_eq!(memory.string(0x1100, 10).unwrap(), b"yyyyyyyyyy");
        assert_eq!(memory.string(0x5000, 10), None);
    }
}
