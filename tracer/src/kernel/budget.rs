//! What one look at kernel memory may cost. Whoever is on the host shapes what is there: lists as long as memory has room
//! for, trees of them, pointers that change while they are followed. Each walk has bounds of its own; this one is that of
//! all of them together, also of steps that read nothing.

use std::cell::Cell;

/// Reads, and steps from one thing to the next, of a look: several times what a host of 100,000 threads, a million open
/// files and as many mappings needs.
const LOOK: u64 = 1 << 25;

/// Bytes that are one read.
const PIECE: usize = 64;

/// What is left for a look.
#[derive(Debug, Clone)]
pub struct Budget {
    of: u64,
    left: Cell<u64>,
    spent: Cell<bool>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(LOOK)
    }
}

impl Budget {
    /// So many reads and steps for each look.
    #[must_use]
    pub fn of(steps: u64) -> Self {
        Self {
            of: steps,
            left: Cell::new(steps),
            spent: Cell::new(false),
        }
    }

    /// A look begins.
    pub fn begin(&self) {
        self.left.set(self.of);
        self.spent.set(false);
    }

    /// Whether there was not enough for this look: what it found is not all.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// Whether so many steps may be made.
    #[must_use]
    pub fn steps(&self, count: usize) -> bool {
        match self.left.get().checked_sub(count as u64) {
            Some(left) => self.left.set(left),
            None => self.spend(),
        }
        !self.spent.get()
    }

    /// How many of some reads of this length may be made.
    pub(super) fn reads(&self, count: usize, len: usize) -> usize {
        let each = len.div_ceil(PIECE).max(1) as u64;
        // No more than `count`.
        let allowed = (self.left.get() / each).min(count as u64) as usize;
        self.left.set(self.left.get() - allowed as u64 * each);
        if allowed < count {
            self.spend();
        }
        allowed
    }

    fn spend(&self) {
        self.left.set(0);
        if !self.spent.replace(true) {
            log::warn!("a look at kernel memory was cut short after {} reads", self.of);
        }
    }
}
