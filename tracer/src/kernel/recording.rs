//! What the walks read of a real kernel, kept for tests: every byte that was read, and where the walks begin.

use std::{
    cell::RefCell,
    io::{self, Read as _},
};

use serde::{Deserialize, Serialize};

use super::{
    budget::Budget,
    memory::{Batch, End, KernelMemory, Links, RecordedMemory, u32_at, u64_at},
};

/// Bytes that a recording unpacks to at the most.
const UNPACKED_MAX: u64 = 64 << 20;

/// Where the walks begin, and in which kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// Its release.
    pub release: String,
    /// Offsets of its per-CPU areas.
    pub per_cpu: Vec<u64>,
    /// Address of the `struct mount` that was looked at.
    pub target: u64,
    /// Address of a `task_struct`.
    pub task: u64,
}

/// Memory that keeps what is read of another.
pub struct Recorder<'m> {
    memory: &'m dyn KernelMemory,
    read: RefCell<RecordedMemory>,
}

impl std::fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl<'m> Recorder<'m> {
    /// Nothing read yet.
    #[must_use]
    pub fn new(memory: &'m dyn KernelMemory) -> Self {
        Self {
            memory,
            read: RefCell::default(),
        }
    }

    /// What was read, compressed: the beginning as a line of JSON, then runs of an address, a length and the bytes.
    pub fn finish(self, beginning: &Beginning) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(beginning)?;
        bytes.push(b'\n');
        for (address, run) in self.read.into_inner().runs() {
            bytes.extend_from_slice(&address.to_le_bytes());
            // A run is within a page.
            bytes.extend_from_slice(&(run.len() as u32).to_le_bytes());
            bytes.extend_from_slice(run);
        }
        zstd::encode_all(bytes.as_slice(), 19)
    }
}

impl KernelMemory for Recorder<'_> {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let batch = self.memory.read(addresses, offset, len);
        let mut read = self.read.borrow_mut();
        for (address, piece) in addresses.iter().zip(batch.iter()) {
            if let Some(piece) = piece {
                read.write(address.wrapping_add(u64::from(offset)), piece);
            }
        }
        batch
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        let chain = self.memory.links(first, offset, stop, most);
        let mut read = self.read.borrow_mut();
        let mut link = |node: u64, next: u64| read.write_word(node.wrapping_add(u64::from(offset)), next);
        for pair in chain.nodes.windows(2) {
            link(pair[0], pair[1]);
        }
        if let Some(last) = chain.nodes.last().filter(|_| chain.end == End::Stop) {
            // It ended at the stop or at null, and which of them is not told.
            let end = self.memory.read(&[*last], offset, 8);
            link(*last, end.words().next().flatten().unwrap_or(stop));
        }
        chain
    }

    fn budget(&self) -> &Budget {
        self.memory.budget()
    }
}

/// Reads a recording.
pub fn read(compressed: &[u8]) -> io::Result<(Beginning, RecordedMemory)> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(compressed)?
        .take(UNPACKED_MAX)
        .read_to_end(&mut bytes)?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, mut rest) = bytes.split_at(end.ok_or_else(|| bad("no first line"))? + 1);
    let beginning = serde_json::from_slice(line)?;
    let mut memory = RecordedMemory::default();
    while !rest.is_empty() {
        let (address, len) = (u64_at(rest, 0), u32_at(rest, 8));
        let (Some(address), Some(len)) = (address, len) else {
            return Err(bad("half a run"));
        };
        let run = rest.get(12..12 + len as usize).ok_or_else(|| bad("half a run"))?;
        memory.write(address, run);
        rest = &rest[12 + run.len()..];
    }
    Ok((beginning, memory))
}

#[cfg(test)]
mod tests {
    use super::{Beginning, KernelMemory, RecordedMemory, Recorder, read};

    #[test]
    fn what_was_read_reads_back_and_nothing_else() {
        let mut memory = RecordedMemory::default();
        memory.write(0x1ff8, &[7; 64]);
        memory.write_word(0x5000, 0x6000);
        memory.write_word(0x6000, 0x5000);
        let recorder = Recorder::new(&memory);
        recorder.read(&[0x1ff8, 0x9000], 4, 16);
        recorder.links(0x5000, 0, 0, 3);
        recorder.links(0x6000, 0, 0x5000, 3);
        let beginning = Beginning {
            release: "7.2".to_owned(),
            per_cpu: vec![1],
            target: 2,
            task: 3,
        };
        let (found, memory) = read(&recorder.finish(&beginning).unwrap()).unwrap();
        assert_eq!(found, beginning);
        let runs = memory.runs();
        assert_eq!(
            runs.iter().map(|(at, run)| (*at, run.len())).collect::<Vec<_>>(),
            [(0x1ffc, 4), (0x2000, 12), (0x5000, 8), (0x6000, 8)]
        );
        read(b"").unwrap_err();
    }
}
