//! What the programs could not tell: their own counters, and the runs that the kernel skipped.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use serde::{Deserialize, Serialize};
use tracer_common::Loss;

use super::bpf::recursion_misses;

/// Losses by probe and reason; those that are zero are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses(pub BTreeMap<String, u64>);

impl Losses {
    /// Sum of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Those by which an open or a close is missing in the ledger: it was full, or the kernel skipped a program that
    /// writes it.
    #[must_use]
    pub fn of_ledger(&self) -> u64 {
        const PROGRAMS: [&str; 3] = ["do_dentry_open", "fput", "readahead"];
        self.sum(|what| is_of_ledger(what) || PROGRAMS.iter().any(|program| what.contains(program)))
    }

    /// Those by which one is missing in the history, which also has to go through the event ring and into the
    /// capture.
    #[must_use]
    pub fn of_history(&self) -> u64 {
        let ring = self.sum(|what| {
            (what.starts_with("open:") && !is_of_ledger(what))
                || ["history:", "capture:"].iter().any(|part| what.starts_with(part))
        });
        self.of_ledger().saturating_add(ring)
    }

    fn sum(&self, which: impl Fn(&str) -> bool) -> u64 {
        let losses = self.0.iter().filter(|(what, _)| which(what));
        losses.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// The same in a few words, where there are more kinds than ebusy counts: who wrote them decides how many.
    #[must_use]
    pub fn in_brief(&self) -> Self {
        const KINDS_MAX: usize = 64;
        if self.0.len() <= KINDS_MAX {
            return self.clone();
        }
        let history = self.of_history();
        let mut brief = Self::default();
        brief.add("history: of many kinds", history);
        brief.add("others, of many kinds", self.total().saturating_sub(history));
        brief
    }

    /// Adds losses of one kind.
    pub fn add(&mut self, what: impl Into<String>, count: u64) {
        if count > 0 {
            let known = self.0.entry(what.into()).or_default();
            *known = known.saturating_add(count);
        }
    }
}

/// Whether the ledger had no room, which the event ring may have had.
fn is_of_ledger(what: &str) -> bool {
    [Loss::LedgerFull, Loss::LedgerRoom]
        .iter()
        .any(|loss| loss.name() == what)
}

/// Runs of programs that the kernel skipped: by program.
#[must_use]
pub fn skipped_runs(ebpf: &Ebpf) -> Vec<(String, u64)> {
    let skipped = ebpf.programs().filter_map(|(name, program)| {
        let fd = program.fd().ok()?;
        Some((name, recursion_misses(fd.as_fd())?))
    });
    lost_runs(skipped.collect())
}

/// Of a program that is there twice (`NAME`, `NAME_again`) a run is lost only where both were skipped: as many as the one
/// that was skipped less often, at the most.
fn lost_runs(mut skipped: BTreeMap<&str, u64>) -> Vec<(String, u64)> {
    let twins: Vec<(&str, u64)> = skipped
        .iter()
        .filter_map(|(name, count)| Some((name.strip_suffix("_again")?, *count)))
        .collect();
    for (name, count) in twins {
        if let Some(first) = skipped.get_mut(name) {
            *first = count.min(*first);
        }
    }
    skipped
        .into_iter()
        .filter(|(name, count)| *count > 0 && !name.ends_with("_again"))
        .map(|(name, count)| (format!("{name}: run skipped by the kernel"), count))
        .collect()
}

/// Reads the counters of the programs.
pub struct LossReader {
    map: PerCpuArray<MapData, u64>,
    /// Umounts that were under way when the programs came.
    under_way: u64,
}

impl std::fmt::Debug for LossReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossReader").finish_non_exhaustive()
    }
}

impl LossReader {
    pub(crate) fn new(map: aya::maps::Map) -> Result<Self> {
        Ok(Self {
            map: PerCpuArray::try_from(map).context("map LOSSES")?,
            under_way: 0,
        })
    }

    /// All programs are there, and nothing is promised before: an umount that has returned by now and whose entry was not
    /// seen was under way when they came, and is no loss.
    pub fn begin(&mut self) -> Result<()> {
        self.under_way = self.count(Loss::UmountEntryMissing)?;
        Ok(())
    }

    fn count(&self, loss: Loss) -> Result<u64> {
        let values = self
            .map
            .get(&(loss as u32), 0)
            .context("reading the loss counters")?;
        Ok(values.iter().sum())
    }

    /// The counters now.
    pub fn read(&self) -> Result<Losses> {
        let mut losses = Losses::default();
        for loss in Loss::ALL {
            let known = match loss {
                Loss::UmountEntryMissing => self.under_way,
                _ => 0,
            };
            losses.add(loss.name(), self.count(*loss)? - known);
        }
        Ok(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::lost_runs;

    #[test]
    fn a_run_is_lost_where_both_of_two_were_skipped() {
        let skipped = [
            ("open", 2),
            ("umount", 3),
            ("umount_again", 1),
            ("x", 0),
            ("x_again", 5),
        ];
        let lost = lost_runs(skipped.into_iter().collect());
        let lost: Vec<_> = lost.iter().map(|(what, count)| (what.as_str(), *count)).collect();
        assert_eq!(
            lost,
            [
                ("open: run skipped by the kernel", 2),
                ("umount: run skipped by the kernel", 1)
            ]
        );
    }
}
