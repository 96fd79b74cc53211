//! The arena through which the reader program hands kernel memory to user space: a memory-mapped array map with
//! one value. User space writes requests, runs the program (`BPF_PROG_TEST_RUN`), and finds the bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Addresses in one batch: the verifier walks each of them when the reader is loaded (53,000 instructions less than with
/// twice as many, half of what a `who` loads), and a run costs as much as 30 of them.
pub const ARENA_SLOTS: usize = 512;

/// Bytes of all slots together.
pub const ARENA_BYTES: usize = ARENA_SLOTS * 128;

/// Bytes of one read at the most.
pub const MAX_READ: usize = 4096;

/// Links that one chase follows at the most.
pub const CHASE_MAX: usize = ARENA_SLOTS;

/// `status` of a slot that was read.
pub const READ_OK: u8 = 1;

/// `status` of a slot whose address is not readable.
pub const READ_FAULT: u8 = 2;

/// The value of the map.
#[repr(C)]
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Arena {
    /// Addresses to read; after a chase, the addresses of the links.
    pub address: [u64; ARENA_SLOTS],
    /// What became of each.
    pub status: [u8; ARENA_SLOTS],
    /// Slot `i` is at `i << shift`; the rest is room for the last one.
    pub data: [u8; ARENA_BYTES + MAX_READ],
}

impl Arena {
    /// Slots that fit at a stride of `1 << shift` bytes.
    #[must_use]
    pub const fn slots(shift: u32) -> usize {
        let fit = ARENA_BYTES >> shift;
        if fit > ARENA_SLOTS { ARENA_SLOTS } else { fit }
    }
}

#[cfg(test)]
mod tests {
    use super::Arena;

    #[test]
    fn slots_fill_the_data_and_no_more() {
        assert_eq!(Arena::slots(3), 512);
        assert_eq!(Arena::slots(6), 512);
        assert_eq!(Arena::slots(12), 16);
    }
}
