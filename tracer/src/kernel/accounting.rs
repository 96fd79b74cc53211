//! Process accounting. acct(2) opens its file through a mount of its own, which the umount takes away
//! (kernel/acct.c, `acct_on`); but up to Linux 6.12 at least the backing file that an overlay opened for it stays
//! on the mount itself, and blocks (kernel fact 13).

use std::collections::BTreeMap;

use super::{
    context::Kernel,
    file::PathAddress,
    found::Found,
    memory::is_kernel_address,
    needs::{Needs, has},
    task::Task,
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Size of a `struct upid`: a number and a pointer (include/linux/pid.h; 5.10 to 7.2).
const UPID: u64 = 16;
/// `MAX_PID_NS_LEVEL`.
const LEVELS: u32 = 32;

/// A kernel without accounting has none of the last four.
pub(super) const NEEDS: Needs = needs![
    task_thread_pid,
    pid_numbers,
    pid_level,
    upid_ns,
    pid_ns_bacct,
    acct_pin,
    acct_file,
    acct_ns,
];

impl Walk<'_, '_> {
    /// Adds the backing files of accounting that are on mounts of interest.
    pub(super) fn accounting(&mut self) {
        let kernel = self.kernel;
        for (file, inside) in kernel.accounting_files(self.tasks) {
            // Only there can it be turned off.
            let held_by = inside.map(|pid| Text::from(format!("/proc/{pid}/ns/pid")));
            let t = &kernel.layout.table;
            let Some(own) = kernel.path_addresses(&[file], t.file_path).pop().flatten() else {
                continue;
            };
            // Its own mount is the private clone.
            let on = |path: &PathAddress| {
                path.dentry == own.dentry && path.mount != own.mount && self.interest.contains(&path.mount)
            };
            let backing = kernel.behind(file).into_iter().filter(|(_, path)| on(path));
            self.found.extend(backing.map(|(backing, path)| Found {
                held_by: held_by.clone(),
                ..Found::new(Kind::Accounting, backing, path)
            }));
        }
    }
}

impl Kernel<'_> {
    /// The files of process accounting of all pid namespaces that tasks are in, each with a process of the namespace if
    /// that is not the first one.
    fn accounting_files(self, tasks: &[Task]) -> BTreeMap<u64, Option<u32>> {
        let t = &self.layout.table;
        if !has(NEEDS, t) {
            return BTreeMap::new();
        }
        let addresses: Vec<u64> = tasks.iter().map(|task| task.address).collect();
        let (processes, pids): (Vec<u32>, Vec<u64>) = tasks
            .iter()
            .zip(self.memory.words(&addresses, t.task_thread_pid))
            .filter_map(|(task, pid)| Some((task.tgid, address(pid)?)))
            .unzip();
        // Of each process the number in its own namespace, and who it is for us where that is another one.
        let (inside, last): (Vec<Option<u32>>, Vec<u64>) = processes
            .iter()
            .zip(&pids)
            .zip(self.memory.halves(&pids, t.pid_level))
            .filter_map(|((process, pid), level)| {
                let level = level.filter(|level| *level <= LEVELS)?;
                let number = pid.wrapping_add(u64::from(t.pid_numbers) + u64::from(level) * UPID);
                Some(((level > 0).then_some(*process), number))
            })
            .unzip();
        let mut namespaces: BTreeMap<u64, Option<u32>> = BTreeMap::new();
        for (inside, namespace) in inside.into_iter().zip(self.memory.words(&last, t.upid_ns)) {
            let Some(namespace) = address(namespace) else {
                continue;
            };
            let of = namespaces.entry(namespace).or_insert(inside);
            *of = (*of).min(inside);
        }
        let addresses: Vec<u64> = namespaces.keys().copied().collect();
        let pins = self.memory.words(&addresses, t.pid_ns_bacct);
        let mut files = BTreeMap::new();
        for ((namespace, inside), pin) in namespaces.into_iter().zip(pins) {
            let Some(pin) = address(pin) else {
                continue;
            };
            let accounting = pin.wrapping_sub(u64::from(t.acct_pin));
            // It leads back, or it is none any more.
            if self.memory.word(accounting, t.acct_ns) == Some(namespace)
                && let Some(file) = address(self.memory.word(accounting, t.acct_file))
            {
                files.insert(file, inside);
            }
        }
        files
    }
}

fn address(word: Option<u64>) -> Option<u64> {
    word.filter(|word| is_kernel_address(*word))
}
