//! Files of the ledger that are in no table: something in the kernel keeps them, or will drop them later.

use std::collections::{HashMap, HashSet};

use super::{
    context::Kernel, file::PathAddress, found::Found, listing::note, subject::LedgerFile, walk::Walk,
};
use crate::model::Kind;

/// Files that are looked at in one snapshot at the most.
const ORPHANS_MAX: usize = 10_000;

impl Kernel<'_> {
    /// Whether files of the ledger are still what it says: open, on the same mount. One whose close was missed is not,
    /// nor is another file at its address.
    #[must_use]
    pub fn still_open(&self, files: &[LedgerFile]) -> Vec<bool> {
        let t = &self.layout.table;
        let addresses: Vec<u64> = files.iter().map(|file| file.file).collect();
        let mounts: Vec<u64> = files.iter().map(|file| file.mount).collect();
        let paths = self.path_addresses(&addresses, t.file_path);
        let ids = self.memory.halves(&mounts, t.mount_id);
        let references = self.file_references(&addresses);
        let facts = paths.into_iter().zip(ids).zip(references);
        files
            .iter()
            .zip(facts)
            .map(|(file, ((path, id), references))| {
                references.is_some_and(|count| count > 0)
                    && path.is_some_and(|path| path.mount == file.mount)
                    && id == Some(file.mount_id)
            })
            .collect()
    }
}

impl Walk<'_, '_> {
    /// Files that the ledger has, and that nothing else led to. The ledger was read before the tables: a file that was
    /// opened since is none of these. To be called when everything else was looked at.
    pub(super) fn orphans(&mut self) {
        let ledger = self.subject.ledger;
        let census = &self.census;
        let known: HashSet<u64> = (census.descriptors.iter().map(|descriptor| descriptor.file))
            .chain(census.executables.iter().map(|(_, file)| *file))
            .chain(census.mapped.iter().map(|mapped| mapped.file))
            .chain(self.carried.iter().map(|carried| carried.file))
            .chain(self.found.iter().map(|found| found.object))
            .collect();
        let left = ledger.iter().filter(|file| {
            !file.backing && self.interest.contains(&file.mount) && !known.contains(&file.file)
        });
        let mut left: Vec<LedgerFile> = left.copied().collect();
        note(
            self.gaps,
            left.len() <= ORPHANS_MAX,
            "too many open files that are in no table",
        );
        left.truncate(ORPHANS_MAX);
        let open = self.kernel.still_open(&left);
        left = left
            .into_iter()
            .zip(open)
            .filter_map(|(file, open)| open.then_some(file))
            .collect();
        // A process that exits has no table any more, and closes what was in it.
        let living: HashSet<(u32, u64)> = self
            .tasks
            .iter()
            .filter(|task| task.files != 0)
            .map(|task| (task.tgid, task.start))
            .collect();
        let files: Vec<u64> = left.iter().map(|file| file.file).collect();
        let paths: HashMap<u64, PathAddress> = self
            .kernel
            .files_on(&files, &self.interest, false)
            .into_iter()
            .collect();
        for LedgerFile {
            file, tgid, start, ..
        } in left
        {
            let Some(path) = paths.get(&file).copied() else {
                continue;
            };
            let kind = if living.contains(&(tgid, start)) {
                Kind::Kernel
            } else {
                Kind::Deferred
            };
            let refs = 1 + self.kernel.backing_files(file, path).len() as u64;
            self.found.push(Found {
                refs,
                ..Found::new(kind, file, path)
            });
        }
    }
}
