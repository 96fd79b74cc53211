//! A second look at what leads to the files that were found. The walk takes no locks: between the read of a table and
//! that of a file's path a process may have ended, and its `struct file` may be another one of somebody else by then.
//! Whatever was there before and after the path was read was there meanwhile.

use std::collections::{HashMap, HashSet};

use super::{
    aio::Asked,
    census::by,
    context::Kernel,
    file::{Descriptor, PathAddress},
    mapping::MappedFile,
    task::Task,
    walk::{Walk, unique},
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
    pub(super) asked: HashSet<Asked>,
}

impl Walk<'_, '_> {
    /// Looks again at what the census has of these files, whose paths have been read since.
    pub(super) fn second_look(&self, files: &HashMap<u64, PathAddress>) -> SecondLook {
        let (kernel, census) = (self.kernel, &self.census);
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
        let now: HashSet<MappedFile> = kernel.mapped_files(&spaces).0.into_iter().collect();
        mapped.retain(|mapped| now.contains(mapped));
        let asked = self
            .carried
            .iter()
            .filter(|carried| files.contains_key(&carried.file));
        let asked: HashSet<Asked> = asked.filter_map(|carried| carried.asked).collect();
        let spaces = unique(asked.iter().map(|asked| asked.space));
        let mut now = kernel.aio_requests(&spaces, self.tasks).0;
        now.retain(|request| asked.contains(request));

        let tables: HashSet<u64> = descriptors.iter().map(|descriptor| descriptor.table).collect();
        let tables = self.still_used(t.task_files, |task| task.files, &tables);
        let spaces: HashSet<u64> = executables.iter().map(|(mm, _)| *mm).collect();
        let spaces: HashSet<u64> = (mapped.iter().map(|mapped| mapped.mm))
            .chain(now.iter().map(|asked| asked.space))
            .chain(spaces)
            .collect();
        let spaces = self.still_used(t.task_mm, |task| task.mm, &spaces);
        descriptors.retain(|descriptor| tables.contains_key(&descriptor.table));
        executables.retain(|(mm, _)| spaces.contains_key(mm));
        mapped.retain(|mapped| spaces.contains_key(&mapped.mm));
        SecondLook {
            tables,
            spaces,
            descriptors,
            executables,
            mapped,
            asked: now,
        }
    }

    /// The tasks that used one of these before and do now: what `offset` of the task says is what `before` has.
    pub(super) fn still_used(
        &self,
        offset: u32,
        before: impl Fn(&Task) -> u64,
        which: &HashSet<u64>,
    ) -> HashMap<u64, Vec<usize>> {
        let mut users = by(self.tasks, |task| {
            Some(before(task))
                .filter(|used| which.contains(used))
                .unwrap_or(0)
        });
        let indices: Vec<usize> = users.values().flatten().copied().collect();
        let tasks: Vec<u64> = indices.iter().map(|index| self.tasks[*index].address).collect();
        let (now, tids) = (
            self.kernel.memory.words(&tasks, offset),
            self.kernel
                .memory
                .halves(&tasks, self.kernel.layout.table.task_pid),
        );
        let same: HashSet<usize> = indices
            .into_iter()
            .zip(now.into_iter().zip(tids))
            .filter(|(index, (used, tid))| {
                let task = &self.tasks[*index];
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
