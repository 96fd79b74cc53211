//! The kernel's own reference counter of a mount: per-CPU, so it is summed.

use anyhow::{Context as _, Result};
use tracer_common::ABSENT;

use super::{context::Kernel, layout::KernelLayout, memory::u32_at, mount::Mount, reader::Reader};

/// Offsets of the per-CPU areas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerCpu {
    /// One for each CPU whose counters were ever used; empty where it could not be found out.
    pub offsets: Vec<u64>,
    /// Why counts are not to be had.
    pub unknown: Option<String>,
}

impl PerCpu {
    /// Finds the offsets without kallsyms: the address of a per-CPU map value on each CPU, less the per-CPU
    /// pointer that the map has for it (kernel fact 10).
    #[must_use]
    pub fn find(reader: &Reader, layout: &KernelLayout) -> Self {
        match Self::offsets(reader, layout) {
            Ok(offsets) => Self {
                offsets,
                unknown: None,
            },
            Err(error) => Self {
                offsets: Vec::new(),
                unknown: Some(format!("{error:#}")),
            },
        }
    }

    fn offsets(reader: &Reader, layout: &KernelLayout) -> Result<Vec<u64>> {
        let online = cpu_list("/sys/devices/system/cpu/online")?;
        // A CPU that is present but offline may have been online, and have left counts behind.
        let present = cpu_list("/sys/devices/system/cpu/present")?;
        if let Some(cpu) = present.iter().find(|cpu| !online.contains(cpu)) {
            anyhow::bail!(
                "CPU {cpu} is offline and its part of the counters cannot be read; \
                 bring it online: echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"
            );
        }
        let memory: &dyn super::memory::KernelMemory = reader;
        online
            .into_iter()
            .map(|cpu| {
                let marks = reader.marks(Some(cpu))?;
                anyhow::ensure!(marks.cpu == cpu, "asked for CPU {cpu}, ran on {}", marks.cpu);
                let pointer = memory
                    .word(marks.map, layout.table.bpf_array_pptrs)
                    .context("the per-CPU pointer of a map is not readable")?;
                Ok(marks.value.wrapping_sub(pointer))
            })
            .collect()
    }
}

/// Parses `0-3,7`.
fn cpu_list(path: &str) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    parse_cpu_list(text.trim()).with_context(|| format!("{path} has {text:?}"))
}

pub(super) fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > 8192 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

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
        let has_children = |mount: &Mount| !self.children(mount).0.is_empty();
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
            self.children(target).0.len() as u64
        };
        Some(beyond + uncounted)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_cpu_list;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("3-1"), None);
        assert_eq!(parse_cpu_list("x"), None);
    }
}
