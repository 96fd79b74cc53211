//! Files that an io_uring keeps: those registered with it, after their descriptors are gone, and those of its requests
//! under way (`uring_request`). Whoever has a descriptor for the ring, maps it, or refers to it by index keeps the ring.
//! One that nobody has any more is found at the work item that takes it down.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    found::Users,
    found::{Carried, unique},
    listing::note,
    memory::{is_kernel_address, u64_at},
    needs::{Needs, has},
    walk::Walk,
};
use crate::model::{Kind, Text, URING_REQUEST};

/// Files registered with one ring at the most (`IORING_MAX_FIXED_FILES` of `io_uring/rsrc.c`, 5.15 on; 1 << 15 before).
const FILES_MAX: u32 = 1 << 20;
/// Slots that are read at once.
const PIECE: usize = 512;
/// The low bits of a registered file's address are flags (`FFS_*`: three in 5.15, two later).
const TAG: u64 = 7;
/// Rings that a task can refer to by index (`IO_RINGFD_REG_MAX`; 5.18 to 7.2).
const INDEXED: usize = 16;
/// `IORING_RSRC_FILE`.
const RSRC_FILE: u8 = 0;
/// A gap.
const CHANGED: &str = "the files of an io_uring changed under the walk";

/// The files of rings, and who has each.
type Rings = BTreeMap<u64, Users>;

pub(super) const NEEDS: Needs = needs![uring_nodes | uring_files];

impl Walk<'_, '_> {
    /// Adds the files of every ring to those that something carries.
    pub(super) fn uring_files(&mut self) {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let mut complete = true;
        let mut contexts: BTreeMap<u64, Users> = BTreeMap::new();
        let rings = self.rings();
        let files: Vec<u64> = rings.keys().copied().collect();
        for (users, context) in rings
            .into_values()
            .zip(kernel.memory.words(&files, t.file_private))
        {
            match context.filter(|context| is_kernel_address(*context)) {
                Some(context) => contexts.entry(context).or_default().extend(users),
                None => complete = false,
            }
        }
        let taken_down = kernel.rings_taken_down(self.tasks);
        let mut requests = kernel.requests_of_workers(self.tasks).joined_to(&mut complete);
        // A ring without a descriptor lives as long as its requests: it is that of who waits for them.
        for request in &requests {
            let user = (self.leader(request.task), None);
            contexts.entry(request.ring).or_insert_with(|| vec![user]);
        }
        for ring in &taken_down {
            contexts.entry(*ring).or_default();
        }
        if contexts.is_empty() {
            note(self.gaps, complete, CHANGED);
            return;
        }
        let contexts: BTreeMap<u64, Rc<Users>> = contexts
            .into_iter()
            .map(|(context, users)| (context, Rc::new(users)))
            .collect();
        requests.retain(|request| contexts.contains_key(&request.ring));
        let mut in_flight: Vec<(u64, u64)> = requests
            .iter()
            .map(|request| (request.ring, request.address))
            .collect();
        for ring in contexts.keys() {
            for found in [kernel.requests_that_wait(*ring), kernel.requests_to_reap(*ring)] {
                match found {
                    Some(requests) => in_flight.extend(requests.into_iter().map(|request| (*ring, request))),
                    None => complete = false,
                }
            }
        }
        for (ring, file) in kernel.files_of_requests(&in_flight) {
            self.carried.push(Carried {
                kind: Kind::IoUring,
                file,
                users: Rc::clone(&contexts[&ring]),
                held_by: Some(Text::from(URING_REQUEST.to_owned())),
                request: None,
            });
        }

        let nodes = t.uring_nodes != ABSENT;
        if !has(NEEDS, t) {
            note(
                self.gaps,
                false,
                "the files registered with an io_uring: this kernel keeps them elsewhere",
            );
            return;
        }
        for (context, users) in contexts {
            let registered = if nodes {
                kernel.files_of_nodes(context)
            } else {
                kernel.files_of_table(context)
            };
            let Some(registered) = registered else {
                complete = false;
                continue;
            };
            let is_taken_down = taken_down.contains(&context);
            self.carried
                .extend(registered.into_iter().map(|(slot, file)| Carried {
                    kind: if is_taken_down {
                        Kind::Deferred
                    } else {
                        Kind::IoUring
                    },
                    file,
                    users: Rc::clone(&users),
                    held_by: Some(Text::from(if is_taken_down {
                        "an io_uring that is taken down".to_owned()
                    } else {
                        format!("slot {slot}")
                    })),
                    request: None,
                }));
        }
        note(self.gaps, complete, CHANGED);
    }

    /// The first thread of a thread's process.
    fn leader(&self, task: usize) -> usize {
        let tgid = self.tasks[task].tgid;
        self.tasks
            .binary_search_by_key(&(tgid, false), |task| (task.tgid, task.tid != task.tgid))
            .unwrap_or(task)
    }

    /// All rings that a task has: by descriptor, by mapping, by index.
    fn rings(&self) -> Rings {
        const NAME: &str = "[io_uring]";
        let (kernel, census) = (self.kernel, &self.census);
        let mut rings: Rings = census
            .anonymous(kernel, NAME)
            .into_iter()
            .map(|file| (file, census.users(file)))
            .collect();
        let indexed = kernel.indexed_rings(self.tasks.iter().map(|task| task.address));
        let further = census.mapped.iter().map(|mapped| mapped.file);
        let further = unique(further.chain(indexed.iter().map(|(_, file)| *file)));
        let ours: BTreeSet<u64> = kernel.anonymous_among(&further, NAME).into_iter().collect();
        for mapped in census.mapped.iter().filter(|mapped| ours.contains(&mapped.file)) {
            let users = census.spaces.get(&mapped.mm).map_or(&[][..], Vec::as_slice);
            let users = users.iter().map(|index| (*index, None));
            rings.entry(mapped.file).or_default().extend(users);
        }
        for (index, file) in indexed.into_iter().filter(|(_, file)| ours.contains(file)) {
            rings.entry(file).or_default().push((index, None));
        }
        rings
    }
}

impl Kernel<'_> {
    /// The rings that tasks refer to by index: index of the task, `struct file`.
    fn indexed_rings(self, tasks: impl Iterator<Item = u64>) -> Vec<(usize, u64)> {
        let t = &self.layout.table;
        let tasks: Vec<u64> = tasks.collect();
        let (users, contexts): (Vec<usize>, Vec<u64>) = self
            .memory
            .words(&tasks, t.task_io_uring)
            .into_iter()
            .enumerate()
            .filter_map(|(index, context)| Some((index, context?)))
            .filter(|(_, context)| is_kernel_address(*context))
            .unzip();
        let batch = self
            .memory
            .read_batch(&contexts, t.uring_registered_rings, INDEXED * 8);
        let mut rings = Vec::new();
        for (index, piece) in users.into_iter().zip(batch.iter()) {
            let words = piece.unwrap_or_default().as_chunks::<8>().0;
            let files = words.iter().map(|word| u64::from_le_bytes(*word));
            rings.extend(
                files
                    .filter(|file| is_kernel_address(*file))
                    .map(|file| (index, file)),
            );
        }
        rings
    }

    /// The files of a ring from Linux 6.13 on: its slots point to nodes, a node to a file or a buffer.
    fn files_of_nodes(self, context: u64) -> Option<Vec<(usize, u64)>> {
        let t = &self.layout.table;
        let slots = self.slots_of(context, t.uring_nodes, t.uring_node_count)?;
        let (numbers, nodes): (Vec<usize>, Vec<u64>) = slots
            .into_iter()
            .filter(|(_, node)| is_kernel_address(*node))
            .unzip();
        let types = self.memory.read_batch(&nodes, t.uring_node_type, 1);
        let files = self.memory.words(&nodes, t.uring_node_file);
        let of_file = types
            .iter()
            .map(|piece| piece.is_some_and(|piece| piece[0] == RSRC_FILE));
        let found = numbers.into_iter().zip(of_file.zip(files));
        Some(
            found
                .filter_map(|(slot, (of_file, file))| Some((slot, untagged(file.filter(|_| of_file)?)?)))
                .collect(),
        )
    }

    /// The files of a ring before.
    fn files_of_table(self, context: u64) -> Option<Vec<(usize, u64)>> {
        let t = &self.layout.table;
        let slots = self.slots_of(context, t.uring_files, t.uring_file_count)?;
        Some(
            slots
                .into_iter()
                .filter_map(|(slot, file)| Some((slot, untagged(file)?)))
                .collect(),
        )
    }

    /// The words of an array that a ring points to, with their numbers, without those that are zero.
    fn slots_of(self, context: u64, array: u32, count: u32) -> Option<Vec<(usize, u64)>> {
        let count = self.memory.half(context, count)?;
        let array = self.memory.word(context, array)?;
        if count == 0 || array == 0 {
            return Some(Vec::new());
        }
        if count > FILES_MAX || !is_kernel_address(array) {
            return None;
        }
        let count = count as usize;
        let mut slots = Vec::new();
        for first in (0..count).step_by(PIECE) {
            let len = PIECE.min(count - first);
            let batch = self
                .memory
                .read_batch(&[array.wrapping_add(first as u64 * 8)], 0, len * 8);
            let piece = batch.get(0)?;
            let words = (0..len).filter_map(|slot| Some((first + slot, u64_at(piece, slot * 8)?)));
            slots.extend(words.filter(|(_, word)| *word != 0));
        }
        Some(slots)
    }
}

/// The address of a registered file.
fn untagged(file: u64) -> Option<u64> {
    Some(file & !TAG).filter(|file| is_kernel_address(*file))
}

#[cfg(test)]
mod tests {
    use super::untagged;

    #[test]
    fn flags_are_no_part_of_an_address() {
        assert_eq!(untagged(0xffff_8880_0000_1003), Some(0xffff_8880_0000_1000));
        assert_eq!(untagged(3), None);
    }
}
