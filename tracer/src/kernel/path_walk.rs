//! Path lookups under way. A lookup that sleeps (on a dead server, in the open of a FIFO) holds the mount that it
//! has come to, the mounts of the symbolic links that it is in, and its root if it has taken it. An open holds the
//! `struct file` as well, which is in no table yet: only the task's kernel stack knows it.
//!
//! After its lookup a system call keeps a `struct path` on its stack alone: that is looked for when references are
//! unexplained, and makes a candidate only, since a word on a stack may be left over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    found::{Found, unique},
    listing::note,
    memory::{is_kernel_address, u64_at},
    mount::Mount,
    needs::{Needs, has},
    subject::Subject,
    task::Task,
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Lookups of one task within each other at the most (`nameidata.saved`; the kernel nests two).
const NESTED_MAX: usize = 8;
/// Symbolic links of one lookup at the most (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;
/// Entries of `nameidata.internal` (`EMBEDDED_LEVELS` of fs/namei.c, 4.2 to 7.2).
const EMBEDDED_LEVELS: u32 = 2;
/// `ND_ROOT_GRABBED` of `nameidata.state` (fs/namei.c, 5.12 on).
const ND_ROOT_GRABBED: u32 = 2;
/// `LOOKUP_ROOT_GRABBED` of `nameidata.flags` before (include/linux/namei.h, 5.3 to 5.11).
const LOOKUP_ROOT_GRABBED: u32 = 8;
/// `THREAD_SIZE` of x86-64 and arm64; twice that with KASAN.
const STACK: u64 = 16 << 10;
/// Stacks are read in pieces of this size, to which they are aligned.
const PIECE: usize = 1024;
/// Tasks whose stacks are searched for leftovers at the most.
const STACKS_MAX: usize = 20_000;

/// A lookup of a task that holds paths.
#[derive(Debug)]
struct Lookup {
    /// Index of the task.
    task: usize,
    /// Address of the `nameidata`.
    address: u64,
    /// Where it has come, then its links, then its root.
    held: Vec<PathAddress>,
}

pub(super) const NEEDS: Needs = needs![task_nameidata, walk_path, walk_flags];

impl Walk<'_, '_> {
    /// Adds lookups that hold mounts of interest: one entry for each task and mount.
    pub(super) fn path_walks(&mut self) {
        let (kernel, tasks) = (self.kernel, self.tasks);
        for lookup in kernel.lookups(tasks) {
            let mut by_mount: BTreeMap<u64, Vec<PathAddress>> = BTreeMap::new();
            for path in &lookup.held {
                if self.interest.contains(&path.mount) {
                    by_mount.entry(path.mount).or_default().push(*path);
                }
            }
            let mut opening = 0;
            // What is being opened is where the lookup has come.
            if let Some(path) = lookup
                .held
                .first()
                .filter(|path| by_mount.contains_key(&path.mount))
            {
                let known = |file: &u64| self.census.paths.contains_key(file);
                for file in kernel.files_being_opened(tasks[lookup.task].address, *path) {
                    if !known(&file) {
                        opening += 1 + kernel.backing_files(file, *path).len() as u64;
                    }
                }
            }
            for (mount, paths) in by_mount {
                let opening = if paths.first() == lookup.held.first() {
                    opening
                } else {
                    0
                };
                self.found.push(Found {
                    refs: paths.len() as u64 + opening,
                    held_by: (opening > 0).then(|| Text::from("an open that waits".to_owned())),
                    ..Found::new(Kind::PathWalk, lookup.address.wrapping_add(mount), paths[0])
                        .used_by(tasks, [(lookup.task, None)])
                });
            }
        }
        let t = &kernel.layout.table;
        note(
            self.gaps,
            has(NEEDS, t),
            "lookups under way: the kernel's type information lacks them",
        );
    }

    /// Adds as candidates the tasks that sleep in a system call with a path of a mount on their stack, for the
    /// mounts whose count is not explained by what was found.
    pub(super) fn suspected_walks(&mut self) {
        let Subject { blocking, counts, .. } = self.subject;
        let kernel = self.kernel;
        let mut found: HashMap<u64, u64> = HashMap::new();
        for reference in &self.found {
            *found.entry(reference.path.mount).or_default() += reference.refs;
        }
        let explained = |mount: &Mount| found.get(&mount.address).copied().unwrap_or(0);
        let short: HashSet<u64> = blocking
            .iter()
            .zip(counts)
            .filter(|(mount, count)| count.is_none_or(|count| self.is_short(mount, explained(mount), count)))
            .map(|(mount, _)| mount.address)
            .collect();
        if short.is_empty() {
            return;
        }
        let t = &kernel.layout.table;
        let wanted: HashMap<u64, u64> = short
            .iter()
            .map(|mount| (mount.wrapping_add(u64::from(t.mount_mnt)), *mount))
            .collect();
        let known: BTreeSet<(usize, u64)> = self
            .found
            .iter()
            .filter(|found| found.kind == Kind::PathWalk)
            .filter_map(|found| Some((found.owner?, found.path.mount)))
            .collect();
        let users: Vec<usize> = (0..self.tasks.len())
            .filter(|index| self.tasks[*index].mm != 0)
            .collect();
        note(
            self.gaps,
            users.len() <= STACKS_MAX,
            "the kernel stacks of all tasks: there are too many",
        );
        let users = &users[..users.len().min(STACKS_MAX)];
        let addresses: Vec<u64> = users.iter().map(|index| self.tasks[*index].address).collect();
        let mut suspected: BTreeMap<(usize, u64), PathAddress> = BTreeMap::new();
        kernel.stacks(&addresses, |which, words| {
            for pair in words.windows(2) {
                if let Some(mount) = wanted.get(&pair[0]) {
                    let path = PathAddress {
                        mount: *mount,
                        dentry: pair[1],
                    };
                    let key = (users[which], *mount);
                    if !known.contains(&key) && is_kernel_address(path.dentry) && kernel.fits(path) {
                        suspected.entry(key).or_insert(path);
                    }
                }
            }
        });
        for ((task, mount), path) in suspected {
            let object = self.tasks[task].address.wrapping_add(mount);
            self.found.push(Found {
                reason: Some(
                    "it sleeps in a system call, and its kernel stack has a path on this mount; \
                     whether it still holds it cannot be seen"
                        .to_owned(),
                ),
                ..Found::new(Kind::PathWalk, object, path).used_by(self.tasks, [(task, None)])
            });
        }
    }

    /// Whether a count is larger than what was found.
    fn is_short(&self, mount: &Mount, mut explained: u64, count: i32) -> bool {
        if self.kernel.layout.children_counted {
            explained += self.kernel.children(mount).items.len() as u64;
        }
        // One reference is that of being mounted.
        i64::from(count) > 1 + explained as i64
    }
}

impl Kernel<'_> {
    /// The lookups of tasks that hold something.
    fn lookups(self, tasks: &[Task]) -> Vec<Lookup> {
        let t = &self.layout.table;
        let addresses: Vec<u64> = tasks.iter().map(|task| task.address).collect();
        let mut lookups = Vec::new();
        for (task, first) in self
            .memory
            .words(&addresses, t.task_nameidata)
            .into_iter()
            .enumerate()
        {
            let mut seen = BTreeSet::new();
            let mut next = first;
            while let Some(address) = next.filter(|address| is_kernel_address(*address)) {
                if seen.len() >= NESTED_MAX || !seen.insert(address) {
                    break;
                }
                let held = self.held(address);
                if !held.is_empty() {
                    lookups.push(Lookup { task, address, held });
                }
                next = self.memory.word(address, t.walk_saved);
            }
        }
        // A lookup ends with its system call, and its memory is the stack: it is one as long as the task says so.
        let tops: Vec<u64> = lookups.iter().map(|lookup| addresses[lookup.task]).collect();
        let still = self.memory.words(&tops, t.task_nameidata);
        let mut still = still.into_iter();
        lookups.retain(|_| still.next().flatten().is_some_and(|nameidata| nameidata != 0));
        lookups
    }

    /// The paths that a lookup holds; in RCU mode none.
    fn held(self, nameidata: u64) -> Vec<PathAddress> {
        let t = &self.layout.table;
        let Some(flags) = self.memory.half(nameidata, t.walk_flags) else {
            return Vec::new();
        };
        if flags & self.layout.lookup_rcu != 0 {
            return Vec::new();
        }
        let mut held = self.path_addresses(&[nameidata], t.walk_path);
        if let (Some(depth), Some(stack)) = (
            self.memory.half(nameidata, t.walk_depth),
            self.memory.word(nameidata, t.walk_stack),
        ) && t.walk_internal != ABSENT
            && t.walk_name != ABSENT
        {
            let size = t.walk_name.saturating_sub(t.walk_internal) / EMBEDDED_LEVELS;
            let links: Vec<u64> = (0..depth.min(LINKS_MAX))
                .map(|link| stack.wrapping_add(u64::from(link * size)))
                .collect();
            held.extend(self.path_addresses(&links, t.walk_link));
        }
        let grabbed = if t.walk_state == ABSENT {
            flags & LOOKUP_ROOT_GRABBED != 0
        } else {
            let state = self.memory.half(nameidata, t.walk_state);
            state.is_some_and(|state| state & ND_ROOT_GRABBED != 0)
        };
        if grabbed {
            held.extend(self.path_addresses(&[nameidata], t.walk_root));
        }
        held.into_iter()
            .flatten()
            .filter(|path| is_kernel_address(path.mount) && is_kernel_address(path.dentry))
            .collect()
    }

    /// Open files with this path that only the stack of a sleeping task knows of.
    fn files_being_opened(self, task: u64, path: PathAddress) -> Vec<u64> {
        let t = &self.layout.table;
        let mut words = Vec::new();
        self.stacks(&[task], |_, stack| words.extend_from_slice(stack));
        let base = self.memory.word(task, t.task_stack).unwrap_or(0);
        let words = words.into_iter().filter(|word| {
            // What points into the stack itself is no file, though a `struct path` may be there.
            is_kernel_address(*word) && word % 8 == 0 && !(base..base.wrapping_add(2 * STACK)).contains(word)
        });
        let words = unique(words);
        let paths = self.path_addresses(&words, t.file_path);
        let files: Vec<u64> = words
            .into_iter()
            .zip(paths)
            .filter(|(_, found)| *found == Some(path))
            .map(|(file, _)| file)
            .collect();
        files
            .into_iter()
            .filter(|file| self.is_open(*file, path))
            .collect()
    }

    /// Whether that is an open file of this path: it counts references, and has the inode of the dentry.
    fn is_open(self, file: u64, path: PathAddress) -> bool {
        let t = &self.layout.table;
        let references = self.file_references(&[file]).first().copied().flatten();
        let alive = references.is_some_and(|count| count != 0 && count < 1 << 32);
        let inode = self.memory.word(file, t.file_inode);
        alive
            && inode.is_some_and(is_kernel_address)
            && inode == self.memory.word(path.dentry, t.dentry_inode)
    }

    /// Shows the used part of the kernel stacks of those tasks that sleep, word by word: index of the task, words.
    fn stacks(self, tasks: &[u64], mut see: impl FnMut(usize, &[u64])) {
        let t = &self.layout.table;
        if t.task_stack_pointer == ABSENT {
            return;
        }
        let states = self.memory.halves(tasks, t.task_state);
        let bases = self.memory.words(tasks, t.task_stack);
        let pointers = self.memory.words(tasks, t.task_stack_pointer);
        let mut pieces: Vec<(usize, u64)> = Vec::new();
        for (index, (state, (base, pointer))) in states
            .into_iter()
            .zip(bases.into_iter().zip(pointers))
            .enumerate()
        {
            // The stack pointer of a task that runs is in its CPU.
            let (Some(1..), Some(base), Some(pointer)) = (state, base, pointer) else {
                continue;
            };
            let Some(used) = used(base, pointer) else { continue };
            pieces.extend(used.step_by(PIECE).map(|piece| (index, piece)));
        }
        let addresses: Vec<u64> = pieces.iter().map(|(_, address)| *address).collect();
        let batch = self.memory.read_batch(&addresses, 0, PIECE);
        let mut words: Vec<u64> = Vec::new();
        let mut pieces = pieces.into_iter().zip(batch.iter()).peekable();
        while let Some(((index, _), piece)) = pieces.next() {
            let piece = piece.unwrap_or_default();
            words.extend((0..piece.len() / 8).filter_map(|word| u64_at(piece, word * 8)));
            if pieces.peek().is_none_or(|((next, _), _)| *next != index) {
                see(index, &words);
                words.clear();
            }
        }
    }
}

/// The addresses between a stack pointer and the end of its stack, from the start of its piece.
fn used(base: u64, pointer: u64) -> Option<std::ops::Range<u64>> {
    let depth = pointer.checked_sub(base)?;
    let end = match depth {
        _ if !is_kernel_address(base) => return None,
        ..STACK => base.checked_add(STACK)?,
        depth if depth < 2 * STACK => base.checked_add(2 * STACK)?,
        _ => return None,
    };
    Some(pointer / PIECE as u64 * PIECE as u64..end)
}

#[cfg(test)]
mod tests {
    use super::{STACK, used};

    #[test]
    fn the_used_part_of_a_stack() {
        const BASE: u64 = 0xffff_c900_0000_0000;
        let end = BASE + STACK;
        assert_eq!(used(BASE, end - 8), Some(end - 1024..end));
        assert_eq!(used(BASE, BASE), Some(BASE..end));
        assert_eq!(used(BASE, end), Some(end..end + STACK));
        assert_eq!(used(BASE, end + STACK), None);
        assert_eq!(used(BASE, BASE - 8), None);
        assert_eq!(used(0, 8), None);
    }
}
