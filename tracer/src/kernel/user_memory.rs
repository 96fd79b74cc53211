//! Memory of user space, without waiting for it. /proc/PID/mem, cmdline and environ take the lock of an address space and
//! fault pages in: whoever has a file of a server that does not answer in the place of a page (FUSE, `userfaultfd`), or keeps
//! the lock while it waits for one, keeps the reader too, beyond SIGKILL. Here the page tables are walked as any other kernel
//! memory, to the kernel's own mapping of all physical memory: no lock, no reference, no fault. What is not in memory at
//! that moment is unknown.

use tracer_common::ABSENT;

use super::{context::Kernel, memory::is_kernel_address};

const PAGE: u64 = 4096;
/// Flags of an entry of a page table (`arch/x86/include/asm/pgtable_types.h`).
const PRESENT: u64 = 1;
const HUGE: u64 = 1 << 7;
/// Physical addresses in an entry: without flags and keys, and without the bits that encryption uses (47 or 51).
const PHYSICAL: u64 = (1 << 46) - PAGE;
/// What an entry may have above these; it has to be what those of our own memory have.
const ABOVE: u64 = ((1 << 52) - 1) & !((1 << 46) - 1);
/// The kernel's mapping begins at a multiple of this, also where its place is random (`kernel_randomize_memory`).
const ALIGNMENT: u64 = 1 << 30;
/// Places that are tried at the most: as many GiB of memory.
const PLACES_MAX: u64 = 1 << 14;
/// Bytes read in one go.
const PIECE: u64 = 256;

/// How user memory is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserMemory {
    /// Where the kernel's mapping of physical memory begins.
    base: u64,
    /// Levels of page tables: 4 or 5.
    levels: u32,
    /// Bits above the physical address.
    above: u64,
}

impl UserMemory {
    /// With the kernel's mapping of physical memory there, and four levels of page tables.
    #[cfg(test)]
    pub(super) fn at(base: u64) -> Self {
        Self {
            base,
            levels: 4,
            above: 0,
        }
    }

    /// Finds it by our own memory: only what leads to the bytes that are really there is right.
    #[must_use]
    pub fn find(kernel: Kernel<'_>) -> Option<Self> {
        // On a page of its own, written, so that it is there.
        let mut proof = vec![0; 2 * PAGE as usize];
        let start = proof.as_ptr().align_offset(PAGE as usize);
        let page = proof.get_mut(start..start + PAGE as usize)?;
        for (index, byte) in page.iter_mut().enumerate() {
            *byte = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5];
        }
        let address = page.as_ptr() as u64;
        Self::prove(
            kernel,
            kernel.ways.task(),
            address,
            &std::hint::black_box(&*page)[..PIECE as usize],
        )
    }

    /// The same, with what is known to be at an address of a task.
    fn prove(kernel: Kernel<'_>, task: u64, address: u64, expected: &[u8]) -> Option<Self> {
        let top = kernel.page_table(task)?;
        let highest = top & !(ALIGNMENT - 1);
        let places = (0..PLACES_MAX).map_while(|gib| highest.checked_sub(gib * ALIGNMENT));
        let places = places.take_while(|base| is_kernel_address(*base));
        places
            .flat_map(|base| [(base, 4), (base, 5)])
            .find_map(|(base, levels)| {
                let (entry, at) = walk(kernel, base, levels, top, address)?;
                let above = entry & ABOVE;
                let piece = kernel.memory.read_batch(&[at], 0, expected.len());
                (piece.get(0) == Some(expected)).then_some(Self { base, levels, above })
            })
    }

    /// What is at an address of a task: up to the first page that is not in memory.
    #[must_use]
    pub fn read(self, kernel: Kernel<'_>, task: u64, address: u64, length: u64) -> Option<Vec<u8>> {
        let top = kernel.page_table(task)?;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let Some(piece) = self.piece(
                kernel,
                top,
                address.checked_add(bytes.len() as u64)?,
                length - bytes.len() as u64,
            ) else {
                break;
            };
            bytes.extend_from_slice(&piece);
        }
        // The tables were those of this address space all the time.
        (kernel.page_table(task) == Some(top)).then_some(bytes)
    }

    /// A piece that ends with its page at the latest.
    fn piece(self, kernel: Kernel<'_>, top: u64, address: u64, most: u64) -> Option<Vec<u8>> {
        let length = most.min(PIECE - address % PIECE);
        let found = || walk(kernel, self.base, self.levels, top, address);
        let (entry, at) = found().filter(|(entry, _)| entry & ABOVE == self.above)?;
        let batch = kernel.memory.read_batch(&[at], 0, length as usize);
        let piece = batch.get(0)?.to_vec();
        // A page that was taken away meanwhile may be somebody else's.
        (found() == Some((entry, at))).then_some(piece)
    }
}

/// The last entry for a user address, and where the kernel has what it leads to. At most one read a level.
fn walk(kernel: Kernel<'_>, base: u64, levels: u32, top: u64, address: u64) -> Option<(u64, u64)> {
    if address >> (12 + 9 * levels - 1) != 0 {
        return None;
    }
    let mut table = top;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let index = (address >> shift) & 0x1ff;
        let entry = kernel.memory.word(table.checked_add(index * 8)?, 0)?;
        if entry & PRESENT == 0 {
            return None;
        }
        let size = 1 << shift;
        let is_last = level == 0 || (level <= 2 && entry & HUGE != 0);
        let physical = entry & PHYSICAL & if is_last { !(size - 1) } else { !0 };
        let mapped = base
            .checked_add(physical)
            .filter(|mapped| is_kernel_address(*mapped))?;
        if is_last {
            return Some((entry, mapped.checked_add(address & (size - 1))?));
        }
        table = mapped;
    }
    None
}

impl Kernel<'_> {
    /// The top page table of a task.
    fn page_table(self, task: u64) -> Option<u64> {
        let t = &self.layout.table;
        if t.mm_pgd == ABSENT {
            return None;
        }
        let space = self
            .memory
            .word(task, t.task_mm)
            .filter(|mm| is_kernel_address(*mm))?;
        self.memory
            .word(space, t.mm_pgd)
            .filter(|top| is_kernel_address(*top) && top.is_multiple_of(PAGE))
    }

    /// The command line of a task, as far as it is in memory and not longer than `most`.
    #[must_use]
    pub fn command_line(self, user: UserMemory, task: u64, most: u64) -> Option<Vec<u8>> {
        let t = &self.layout.table;
        if t.mm_arg_start == ABSENT || t.mm_arg_end == ABSENT {
            return None;
        }
        let space = self
            .memory
            .word(task, t.task_mm)
            .filter(|mm| is_kernel_address(*mm))?;
        let start = self.memory.word(space, t.mm_arg_start)?;
        let end = self.memory.word(space, t.mm_arg_end)?;
        let length = end.checked_sub(start)?.min(most);
        user.read(self, task, start, length)
            .filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ALIGNMENT, PAGE, PIECE, UserMemory};
    use crate::kernel::{Kernel, PerCpu, RecordedMemory, testing::layout, ways::Ways};

    const BASE: u64 = 0xffff_9200_4000_0000;
    const TASK: u64 = 0xffff_c900_0000_0000;
    const SPACE: u64 = 0xffff_c900_0001_0000;
    /// Physical addresses of the tables, from the top; the last one is of the page.
    const TABLES: [u64; 6] = [0x1_4000_5000, 0x6000, 0x7000, 0x8000, 0x9000, 0xa000];
    const ADDRESS: u64 = 0x7ffd_1234_5f00;
    const TEXT: &[u8; PIECE as usize] = &[b'w'; PIECE as usize];

    /// A task with one page of user memory behind so many levels of tables.
    fn memory(levels: usize, flags: u64) -> RecordedMemory {
        let layout = layout();
        let mut memory = RecordedMemory::default();
        memory.write_word(TASK + u64::from(layout.table.task_mm), SPACE);
        memory.write_word(SPACE + u64::from(layout.table.mm_pgd), BASE + TABLES[0]);
        for level in 0..levels {
            let index = (ADDRESS >> (12 + 9 * (levels - 1 - level))) & 0x1ff;
            let entry = TABLES[level + 1] | 0x7 | flags;
            memory.write_word(BASE + TABLES[level] + index * 8, entry);
        }
        memory.write(BASE + TABLES[levels] + ADDRESS % PAGE, TEXT);
        memory
    }

    fn with<R>(memory: &RecordedMemory, ask: impl FnOnce(Kernel<'_>) -> R) -> R {
        let (layout, per_cpu, ways) = (layout(), PerCpu::default(), Ways::default());
        ask(Kernel {
            memory,
            layout: &layout,
            per_cpu: &per_cpu,
            ways: &ways,
        })
    }

    #[test]
    fn the_way_proves_itself_and_what_is_not_there_is_not_waited_for() {
        for (levels, flags) in [(4, 0), (5, 0), (4, 1 << 47), (4, 1 << 63)] {
            let mut memory = memory(levels, flags);
            let user = with(&memory, |kernel| UserMemory::prove(kernel, TASK, ADDRESS, TEXT)).unwrap();
            assert_eq!((user.base, user.levels as usize), (BASE, levels));
            let read = |memory: &RecordedMemory, from, length| {
                with(memory, |kernel| user.read(kernel, TASK, from, length)).unwrap()
            };
            assert_eq!(read(&memory, ADDRESS, 20), [b'w'; 20]);
            // The next page is not there.
            assert_eq!(read(&memory, ADDRESS, 2 * PAGE), TEXT);
            assert_eq!(read(&memory, ADDRESS + PAGE, 20), b"");
            assert_eq!(read(&memory, u64::MAX - 1, 20), b"");
            assert_eq!(read(&memory, BASE, 20), b"");
            // A page that is not there: nothing of it, wherever its entry points.
            let last = BASE + TABLES[levels - 1] + ((ADDRESS >> 12) & 0x1ff) * 8;
            memory.write_word(last, TABLES[levels] | flags | 0x6);
            assert_eq!(read(&memory, ADDRESS, 20), b"");
            // One that is encrypted otherwise than ours.
            memory.write_word(last, TABLES[levels] | 0x7 | flags ^ (1 << 51));
            assert_eq!(read(&memory, ADDRESS, 20), b"");
        }
    }

    #[test]
    fn a_large_page_ends_the_walk() {
        let mut memory = memory(4, 0);
        let user = with(&memory, |kernel| UserMemory::prove(kernel, TASK, ADDRESS, TEXT)).unwrap();
        // 2 MiB at 0x40_0000.
        memory.write_word(BASE + TABLES[2] + ((ADDRESS >> 21) & 0x1ff) * 8, 0x40_0000 | 0x87);
        memory.write(BASE + 0x40_0000 + ADDRESS % (1 << 21), b"large");
        let found = with(&memory, |kernel| user.read(kernel, TASK, ADDRESS, 5));
        assert_eq!(found.as_deref(), Some(&b"large"[..]));
    }

    #[test]
    fn what_does_not_prove_itself_is_not_used() {
        let memory = memory(4, 0);
        let other = [b'x'; PIECE as usize];
        assert_eq!(
            with(&memory, |kernel| UserMemory::prove(kernel, TASK, ADDRESS, &other)),
            None
        );
        assert_eq!(with(&memory, UserMemory::find), None);
    }

    proptest! {
        /// Tables with anything in them end the walk, and lead to nothing but the kernel's mapping.
        #[test]
        fn any_tables_end(entries in prop::collection::vec(any::<u64>(), 5), address: u64, length in 0_u64..100_000) {
            let mut memory = memory(4, 0);
            for (table, entry) in TABLES.into_iter().zip(entries) {
                for index in 0..512 {
                    memory.write_word(BASE + table + index * 8, entry);
                }
            }
            let user = UserMemory::at(BASE);
            let read = with(&memory, |kernel| user.read(kernel, TASK, address, length));
            prop_assert!(read.is_none_or(|bytes| bytes.len() as u64 <= length));
            prop_assert!(BASE.is_multiple_of(ALIGNMENT));
        }
    }
}
