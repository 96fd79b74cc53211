//! The ledger of open files as user space sees it: read for every snapshot, mended after a loss.

use std::collections::{HashMap, HashSet};

use crate::{
    kernel::{Kernel, LedgerFile, Snapshot},
    model::Kind,
    probe::{LedgerMaps, Losses},
    stream::{Opened, of_ledger},
};

/// Whether the ledger can be relied on.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    lost: u64,
    stale: bool,
}

/// The ledger as of one moment.
#[derive(Debug, Default)]
pub(super) struct LedgerView {
    open: Vec<(LedgerFile, Opened)>,
    closed: Vec<Opened>,
}

impl Ledger {
    /// Enters what was lost so far.
    pub(super) fn lost(&mut self, losses: &Losses) {
        let lost = losses.of_ledger();
        self.stale |= lost > self.lost;
        self.lost = lost;
    }

    /// Opens were lost since the ledger was mended: that a file is not in it proves nothing.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Reads it; empty at a tier that has none.
    pub(super) fn read(maps: Option<&LedgerMaps>) -> LedgerView {
        let Some(maps) = maps else {
            return LedgerView::default();
        };
        let or_nothing = |read: anyhow::Result<_>| {
            read.unwrap_or_else(|error| {
                log::warn!("{error:#}");
                Vec::new()
            })
        };
        let open = or_nothing(maps.open());
        let closed = or_nothing(maps.closed());
        LedgerView {
            open: open
                .into_iter()
                .map(|(file, entry)| {
                    let opened = of_ledger(file, &entry);
                    let known = LedgerFile {
                        file,
                        mount: opened.mount,
                        mount_id: entry.mount_id,
                        tgid: entry.tgid,
                        start: entry.start,
                        backing: opened.is_backing(),
                    };
                    (known, opened)
                })
                .collect(),
            closed: closed
                .into_iter()
                .map(|(file, entry)| of_ledger(file, &entry))
                .collect(),
        }
    }

    /// After a loss: entries whose file is no more are removed, and the files that the snapshot found are entered, so
    /// that their end is seen.
    pub(super) fn mend(&mut self, kernel: Kernel<'_>, maps: &mut LedgerMaps, snapshot: &Snapshot) {
        let view = Self::read(Some(maps));
        let files = view.files();
        for ((file, opened), open) in view.open.iter().zip(kernel.still_open(&files)) {
            if !open {
                maps.purge(file.file, opened.time);
            }
        }
        let known: HashSet<u64> = files.iter().map(|file| file.file).collect();
        for reference in &snapshot.references {
            let holder = &reference.holder;
            let file = matches!(holder.kind, Kind::Fd | Kind::Exe | Kind::Mmap);
            if let Some(mount_id) = holder.mount_id
                && file
                && !known.contains(&reference.object)
            {
                maps.refill(reference.object, reference.mount, mount_id);
            }
        }
        self.stale = false;
    }
}

impl LedgerView {
    /// What a snapshot takes.
    pub(super) fn files(&self) -> Vec<LedgerFile> {
        self.open.iter().map(|(file, _)| *file).collect()
    }

    /// What the analysis needs of it: the files on the mounts of a snapshot, the latest ones if they are many.
    pub(super) fn of(self, snapshot: &Snapshot, most: usize) -> Vec<Opened> {
        let mounts: HashSet<u64> = std::iter::once(&snapshot.target)
            .chain(&snapshot.slots)
            .map(|state| state.address)
            .chain(snapshot.references.iter().map(|reference| reference.mount))
            .collect();
        let open = self.open.into_iter().map(|(_, opened)| opened);
        let mut all: Vec<Opened> = open
            .chain(self.closed)
            .filter(|opened| mounts.contains(&opened.mount))
            .collect();
        all.sort_by_key(|opened| std::cmp::Reverse(opened.time));
        all.truncate(most);
        all
    }

    /// The files that are open on each of these mounts, the latest ones if they are many.
    pub(super) fn open_on(&self, mounts: &HashSet<u64>, most: usize) -> HashMap<u64, Vec<Opened>> {
        let mut on: HashMap<u64, Vec<Opened>> = HashMap::new();
        for (_, opened) in self
            .open
            .iter()
            .filter(|(_, opened)| mounts.contains(&opened.mount))
        {
            on.entry(opened.mount).or_default().push(opened.clone());
        }
        for opened in on.values_mut() {
            opened.sort_by_key(|opened| std::cmp::Reverse(opened.time));
            opened.truncate(most);
        }
        on
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use crate::probe::Losses;

    #[test]
    fn a_loss_makes_it_stale_once() {
        let mut ledger = Ledger::default();
        let mut losses = Losses::default();
        losses.add("count_exit: run skipped by the kernel", 3);
        losses.add("open: event ring full", 3);
        ledger.lost(&losses);
        assert!(!ledger.is_stale(), "the ring is not the ledger");
        losses.add("kprobe_fput_entry: run skipped by the kernel", 2);
        ledger.lost(&losses);
        assert!(ledger.is_stale());
        ledger.stale = false;
        ledger.lost(&losses);
        assert!(!ledger.is_stale(), "nothing was lost since");
        losses.add(tracer_common::Loss::LedgerFull.name(), 1);
        ledger.lost(&losses);
        assert!(ledger.is_stale());
    }
}
