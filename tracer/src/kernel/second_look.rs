//! A second look at what leads to the files that were found. The walk takes no locks: between the read of a table and
//! that of a file's path a process may have ended, and its `struct file` may be another one of somebody else by then.
//! Whatever was there before and after the path was read was there meanwhile.

use std::collections::{HashMap, HashSet};

use super::{
    census::{Census, by},
    context::Kernel,
    file::{Descriptor, PathAddress},
    found::{Carried, Request, unique},
    mapping::MappedFile,
    task::Task,
};

/// What leads to some files, as it was before and is now.
#[derive(Debug, Default)]
pub(super) struct SecondLook {
    /// Tasks (by index) that use a descriptor table.
    pub(super) tables: HashMap<u64, Vec<usize>>,
    /// Tasks that use an address space.
    pub(super) spaces: HashMap<u64, Vec<usize>>,
    pub(super) descriptors: Vec<Descriptor>,
    /// Address space and file of executables.
    pub(super) executables: Vec<(u64, u64)>,
    pub(super) mapped: Vec<MappedFile>,
    /// Requests of AIO.
    pub(super) asked: HashSet<Request>,
}

impl SecondLook {
    /// Looks again at what the census and the kernel's own keepers have of these files, whose paths have been read since.
    pub(super) fn take(
        kernel: Kernel<'_>,
        tasks: &[Task],
        census: &Census,
        carried: &[Carried],
        files: &HashMap<u64, PathAddress>,
    ) -> Self {
        let t = &kernel.layout.table;
        let of_files = |descriptor: &&Descriptor| files.contains_key(&descriptor.file);
        let descriptors: Vec<Descriptor> = census.descriptors.iter().filter(of_files).copied().collect();
        let mut descriptors = kernel.still_open_in(descriptors);
        let mut executables: Vec<(u64, u64)> = census
            .executables
            .iter()
            .filter(|(_, file)| files.contains_key(file))
            .copied()
            .collect();
        let spaces: Vec<u64> = executables.iter().map(|(mm, _)| *mm).collect();
        let now = kernel.memory.words(&spaces, t.mm_exe_file);
        let mut now = now.into_iter();
        executables.retain(|(_, file)| now.next().flatten() == Some(*file));
        let mut mapped: Vec<MappedFile> = census
            .mapped
            .iter()
            .filter(|mapped| files.contains_key(&mapped.file))
            .copied()
            .collect();
        let spaces = unique(mapped.iter().map(|mapped| mapped.mm));
        let now: HashSet<MappedFile> = kernel.mapped_files(&spaces).items.into_iter().collect();
        mapped.retain(|mapped| now.contains(mapped));
        let asked = carried.iter().filter(|carried| files.contains_key(&carried.file));
        let asked: HashSet<Request> = asked.filter_map(|carried| carried.request).collect();
        let spaces = unique(asked.iter().map(|asked| asked.space));
        let mut now = kernel.aio_requests(&spaces, tasks).items;
        now.retain(|request| asked.contains(request));

        let tables: HashSet<u64> = descriptors.iter().map(|descriptor| descriptor.table).collect();
        let tables = still_used(kernel, tasks, t.task_files, |task| task.files, &tables);
        let spaces: HashSet<u64> = executables.iter().map(|(mm, _)| *mm).collect();
        let spaces: HashSet<u64> = (mapped.iter().map(|mapped| mapped.mm))
            .chain(now.iter().map(|asked| asked.space))
            .chain(spaces)
            .collect();
        let spaces = still_used(kernel, tasks, t.task_mm, |task| task.mm, &spaces);
        descriptors.retain(|descriptor| tables.contains_key(&descriptor.table));
        executables.retain(|(mm, _)| spaces.contains_key(mm));
        mapped.retain(|mapped| spaces.contains_key(&mapped.mm));
        Self {
            tables,
            spaces,
            descriptors,
            executables,
            mapped,
            asked: now,
        }
    }
}

impl Kernel<'_> {
    /// The descriptors that stand for the same file still.
    fn still_open_in(self, mut descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
        let t = &self.layout.table;
        let known = |words: Vec<Option<u64>>| -> Vec<u64> {
            words.into_iter().map(Option::unwrap_or_default).collect()
        };
        let tables: Vec<u64> = descriptors.iter().map(|descriptor| descriptor.table).collect();
        let fdts = known(self.memory.words(&tables, t.files_fdt));
        let arrays = known(self.memory.words(&fdts, t.fdt_fd));
        let slots: Vec<u64> = arrays
            .into_iter()
            .zip(&descriptors)
            .map(|(array, descriptor)| array.wrapping_add(u64::from(descriptor.fd) * 8))
            .collect();
        let mut now = self.memory.words(&slots, 0).into_iter();
        descriptors.retain(|descriptor| now.next().flatten() == Some(descriptor.file));
        descriptors
    }
}

/// The tasks that used one of these before and do now: what `offset` of the task says is what `before` has.
pub(super) fn still_used(
    kernel: Kernel<'_>,
    tasks: &[Task],
    offset: u32,
    before: impl Fn(&Task) -> u64,
    which: &HashSet<u64>,
) -> HashMap<u64, Vec<usize>> {
    let mut users = by(tasks, |task| {
        Some(before(task))
            .filter(|used| which.contains(used))
            .unwrap_or(0)
    });
    let indices: Vec<usize> = users.values().flatten().copied().collect();
    let addresses: Vec<u64> = indices.iter().map(|index| tasks[*index].address).collect();
    let (now, tids) = (
        kernel.memory.words(&addresses, offset),
        kernel.memory.halves(&addresses, kernel.layout.table.task_pid),
    );
    let same: HashSet<usize> = indices
        .into_iter()
        .zip(now.into_iter().zip(tids))
        .filter(|(index, (used, tid))| {
            let task = &tasks[*index];
            *used == Some(before(task)) && *tid == Some(task.tid)
        })
        .map(|(index, _)| index)
        .collect();
    users.retain(|_, users| {
        users.retain(|index| same.contains(index));
        !users.is_empty()
    });
    users
}
