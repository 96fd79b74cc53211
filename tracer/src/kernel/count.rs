//! The kernel's own reference counter of a mount: per-CPU, so it is summed.

use tracer_common::ABSENT;

use super::{context::Kernel, memory::u32_at, mount::Mount};

impl Kernel<'_> {
    /// Reference counts of mounts: `mnt_count`, or gets less puts (kernel fact 9). Wrapping 32-bit sums: the share of
    /// one CPU may be negative.
    #[must_use]
    pub fn counts(&self, mounts: &[&Mount]) -> Vec<Option<i32>> {
        let t = &self.layout.table;
        let offsets = &self.per_cpu.offsets;
        if offsets.is_empty() {
            return vec![None; mounts.len()];
        }
        let addresses: Vec<u64> = mounts
            .iter()
            .flat_map(|mount| offsets.iter().map(|offset| mount.per_cpu.wrapping_add(*offset)))
            .collect();
        let fields: &[(u32, bool)] = if t.pcp_count == ABSENT {
            &[(t.pcp_gets, true), (t.pcp_puts, false)]
        } else {
            &[(t.pcp_count, true)]
        };
        let mut sums = vec![Some(0i32); mounts.len()];
        for (field, positive) in fields {
            let batch = self.memory.read_batch(&addresses, *field, 4);
            for (index, piece) in batch.iter().enumerate() {
                let sum = &mut sums[index / offsets.len()];
                let part = piece.and_then(|piece| u32_at(piece, 0)).map(|part| part as i32);
                *sum = match (*sum, part) {
                    (Some(sum), Some(part)) if *positive => Some(sum.wrapping_add(part)),
                    (Some(sum), Some(part)) => Some(sum.wrapping_sub(part)),
                    _ => None,
                };
            }
        }
        sums
    }

    /// What keeps a mount busy now: references beyond the one that its namespace has, and mounts on it; and those of
    /// the mounts in its place elsewhere, less those that the kernel passes over, since they have mounts of their own.
    /// `None` where counts cannot be read.
    #[must_use]
    pub fn busy_references(&self, target: &Mount) -> Option<u64> {
        let slots = self.slots(target).mounts;
        let has_children = |mount: &Mount| !self.children(mount).items.is_empty();
        let slots = slots.iter().filter(|slot| !has_children(slot));
        let mounts: Vec<&Mount> = std::iter::once(target).chain(slots).collect();
        let counts: Option<Vec<i32>> = self.counts(&mounts).into_iter().collect();
        let beyond: u64 = counts?
            .into_iter()
            .map(|count| u64::try_from(count).unwrap_or(0).saturating_sub(1))
            .sum();
        let uncounted = if self.layout.children_counted {
            0
        } else {
            self.children(target).items.len() as u64
        };
        Some(beyond + uncounted)
    }
}
