//! Where the memory of each CPU is.

use anyhow::{Context as _, Result};

use super::{layout::KernelLayout, reader::Reader};

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
