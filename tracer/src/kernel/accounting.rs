//! Process accounting. acct(2) opens its file through a mount of its own, which the umount takes away
//! (kernel/acct.c, `acct_on`); but up to Linux 6.12 at least the backing file that an overlay opened for it stays
//! on the mount itself, and blocks (KERNEL.md 8).

use std::collections::BTreeSet;

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    memory::is_kernel_address,
    walk::{Found, Walk},
};
use crate::model::Kind;

/// Size of a `struct upid`: a number and a pointer (include/linux/pid.h; 5.10 to 7.2).
const UPID: u64 = 16;
/// `MAX_PID_NS_LEVEL`.
const LEVELS: u32 = 32;

impl Walk<'_, '_> {
    /// Adds the backing files of accounting that are on mounts of interest.
    pub(super) fn accounting(&mut self) {
        let kernel = self.kernel;
        for file in kernel.accounting_files(self.tasks.iter().map(|task| task.address)) {
            let t = &kernel.layout.table;
            let Some(own) = kernel.path_addresses(&[file], t.file_path).pop().flatten() else {
                continue;
            };
            for mount in &self.interest {
                // Its own mount is the private clone.
                if *mount == own.mount {
                    continue;
                }
                let path = PathAddress {
                    mount: *mount,
                    dentry: own.dentry,
                };
                let backing = kernel.backing_files(file, path);
                self.found.extend(
                    backing
                        .into_iter()
                        .map(|backing| Found::new(Kind::Accounting, backing, path)),
                );
            }
        }
    }
}

impl Kernel<'_> {
    /// The files of process accounting of all pid namespaces that tasks are in.
    fn accounting_files(self, tasks: impl Iterator<Item = u64>) -> BTreeSet<u64> {
        let t = &self.layout.table;
        let needed = [
            t.task_thread_pid,
            t.pid_numbers,
            t.pid_level,
            t.upid_ns,
            t.pid_ns_bacct,
            t.acct_pin,
            t.acct_file,
            t.acct_ns,
        ];
        // A kernel without accounting has none of these.
        if needed.contains(&ABSENT) {
            return BTreeSet::new();
        }
        let tasks: Vec<u64> = tasks.collect();
        let pids: Vec<u64> = present(self.memory.words(&tasks, t.task_thread_pid));
        let last: Vec<u64> = pids
            .iter()
            .zip(self.memory.halves(&pids, t.pid_level))
            .filter_map(|(pid, level)| {
                let level = level.filter(|level| *level <= LEVELS)?;
                Some(pid.wrapping_add(u64::from(t.pid_numbers) + u64::from(level) * UPID))
            })
            .collect();
        let namespaces = present(self.memory.words(&last, t.upid_ns));
        let pins = self.memory.words(&namespaces, t.pid_ns_bacct);
        let mut files = BTreeSet::new();
        for (namespace, pin) in namespaces.into_iter().zip(pins) {
            let Some(pin) = pin.filter(|pin| is_kernel_address(*pin)) else {
                continue;
            };
            let accounting = pin.wrapping_sub(u64::from(t.acct_pin));
            // It leads back, or it is none any more.
            if self.memory.word(accounting, t.acct_ns) == Some(namespace) {
                files.extend(present(vec![self.memory.word(accounting, t.acct_file)]));
            }
        }
        files
    }
}

/// The addresses among words, sorted, each once.
fn present(words: Vec<Option<u64>>) -> Vec<u64> {
    let words = words
        .into_iter()
        .flatten()
        .filter(|word| is_kernel_address(*word));
    super::walk::unique(words)
}
