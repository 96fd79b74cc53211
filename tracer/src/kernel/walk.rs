//! The walk over everything that can hold a mount: directories, descriptors, executables, mappings, child mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    context::Kernel,
    file::{Descriptor, PathAddress},
    mount::Mount,
    task::Task,
};
use crate::model::Kind;

/// Notes what could not be looked at whole.
pub(super) fn note(gaps: &mut Vec<String>, complete: bool, what: &str) {
    if !complete {
        gaps.push(what.to_owned());
    }
}

/// A reference before it has names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) also: Vec<Kind>,
    pub(super) refs: u64,
    pub(super) object: u64,
    pub(super) path: PathAddress,
    /// Index of the owner in the list of tasks.
    pub(super) owner: Option<usize>,
    pub(super) fd: Option<u32>,
    /// Other processes: index of a task, descriptor.
    pub(super) sharers: Vec<(usize, Option<u32>)>,
}

/// How an open file is used.
#[derive(Debug, Default)]
struct Uses {
    descriptors: Vec<(u64, u32)>,
    executed_by: BTreeSet<u64>,
    mapped_by: BTreeSet<u64>,
}

/// A walk under way.
pub(super) struct Walk<'k, 'g> {
    kernel: Kernel<'k>,
    interest: HashSet<u64>,
    gaps: &'g mut Vec<String>,
    pub(super) found: Vec<Found>,
}

/// The tasks that use something, by its address.
fn by<F: Fn(&Task) -> u64>(tasks: &[Task], key: F) -> HashMap<u64, Vec<usize>> {
    let mut users: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        if key(task) != 0 {
            users.entry(key(task)).or_default().push(index);
        }
    }
    users
}

fn keys(users: &HashMap<u64, Vec<usize>>) -> Vec<u64> {
    let mut keys: Vec<u64> = users.keys().copied().collect();
    keys.sort_unstable();
    keys
}

impl<'k, 'g> Walk<'k, 'g> {
    /// A walk that looks for references on these mounts.
    pub(super) fn new(kernel: Kernel<'k>, interest: HashSet<u64>, gaps: &'g mut Vec<String>) -> Self {
        Self {
            kernel,
            interest,
            gaps,
            found: Vec::new(),
        }
    }

    /// All threads.
    pub(super) fn tasks(&mut self, task: u64) -> Vec<Task> {
        let tasks = self.kernel.tasks(task);
        note(
            self.gaps,
            tasks.complete,
            "the list of tasks changed under the walk",
        );
        tasks.all
    }

    /// Working and root directories: one reference each, whatever threads share them.
    pub(super) fn directories(&mut self, tasks: &[Task]) {
        let t = &self.kernel.layout.table;
        let users = by(tasks, |task| task.fs);
        let addresses = keys(&users);
        for (kind, offset) in [(Kind::Cwd, t.fs_pwd), (Kind::Root, t.fs_root)] {
            for (address, path) in addresses
                .iter()
                .zip(self.kernel.path_addresses(&addresses, offset))
            {
                let Some(path) = path.filter(|path| self.interest.contains(&path.mount)) else {
                    continue;
                };
                let (owner, sharers) = split(tasks, users[address].iter().map(|index| (*index, None)));
                let fd = None;
                self.found.push(Found {
                    kind,
                    also: Vec::new(),
                    refs: 1,
                    object: *address,
                    path,
                    owner,
                    fd,
                    sharers,
                });
            }
        }
    }

    /// Open, executed and mapped files.
    pub(super) fn files(&mut self, tasks: &[Task]) {
        let kernel = self.kernel;
        let tables = by(tasks, |task| task.files);
        let (descriptors, complete) = kernel.descriptors(&keys(&tables));
        note(self.gaps, complete, "a descriptor table changed under the walk");
        let spaces = by(tasks, |task| task.mm);
        let mms = keys(&spaces);
        let (mapped, complete) = kernel.mapped_files(&mms);
        note(
            self.gaps,
            complete,
            "the mappings of a process changed under the walk",
        );
        let executables = kernel.memory.words(&mms, kernel.layout.table.mm_exe_file);

        let open = unique(descriptors.iter().map(|descriptor| descriptor.file));
        let run = unique(executables.iter().flatten().copied().filter(|file| *file != 0));
        let maps = unique(mapped.iter().map(|mapped| mapped.file));
        let mut paths = kernel.files_on(&open, &self.interest, false);
        paths.extend(kernel.files_on(&run, &self.interest, false));
        let opened: Vec<u64> = paths.keys().copied().collect();
        paths.extend(kernel.files_on(&maps, &self.interest, true));

        let mut uses: BTreeMap<u64, Uses> = BTreeMap::new();
        for Descriptor { table, fd, file } in descriptors {
            if paths.contains_key(&file) {
                uses.entry(file).or_default().descriptors.push((table, fd));
            }
        }
        for (mm, file) in mms.iter().zip(&executables) {
            if let Some(file) = file.filter(|file| paths.contains_key(file)) {
                uses.entry(file).or_default().executed_by.insert(*mm);
            }
        }
        for mapping in mapped {
            if paths.contains_key(&mapping.file) {
                uses.entry(mapping.file).or_default().mapped_by.insert(mapping.mm);
            }
        }
        // The backing file of an overlay belongs to the file that it backs.
        let mut extra: HashMap<u64, u64> = HashMap::new();
        for file in opened {
            for backing in kernel.backing_files(file, paths[&file]) {
                *extra.entry(file).or_default() += 1;
                if let Some(behind) = uses.remove(&backing) {
                    uses.entry(file).or_default().mapped_by.extend(behind.mapped_by);
                }
            }
        }
        for (file, uses) in uses {
            let refs = 1 + extra.get(&file).copied().unwrap_or(0);
            self.found.push(found_file(
                file,
                paths[&file],
                refs,
                &uses,
                tasks,
                &tables,
                &spaces,
            ));
        }
    }

    /// Child mounts: of the target they block; the kernel skips slots that have any.
    pub(super) fn child_mounts(&mut self, blocking: &[&Mount]) {
        for mount in blocking.iter().take(1) {
            let (children, complete) = self.kernel.children(mount);
            note(
                self.gaps,
                complete,
                "the list of child mounts changed under the walk",
            );
            for child in self.kernel.mounts(&children).into_iter().flatten() {
                self.found.push(Found {
                    kind: Kind::ChildMount,
                    also: Vec::new(),
                    refs: 1,
                    object: child.address,
                    path: PathAddress {
                        mount: mount.address,
                        dentry: child.mountpoint,
                    },
                    owner: None,
                    fd: None,
                    sharers: Vec::new(),
                });
            }
        }
    }
}

/// Sorted, each once.
pub(super) fn unique(files: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut files: Vec<u64> = files.collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// The owner is the process that started first; of its threads the leader, if it is one of them.
fn split(
    tasks: &[Task],
    users: impl Iterator<Item = (usize, Option<u32>)>,
) -> (Option<usize>, Vec<(usize, Option<u32>)>) {
    let mut processes: BTreeMap<u32, (usize, Option<u32>)> = BTreeMap::new();
    for (index, fd) in users {
        let entry = processes.entry(tasks[index].tgid).or_insert((index, fd));
        if entry.1.is_none() && fd.is_some() || (entry.1.is_some() == fd.is_some() && index < entry.0) {
            *entry = (index, fd);
        }
    }
    let mut all: Vec<(usize, Option<u32>)> = processes.into_values().collect();
    // Those that have a descriptor come first: they are why the kind is `fd`.
    all.sort_by_key(|(index, fd)| (fd.is_none(), tasks[*index].start, tasks[*index].tgid));
    let owner = all.first().map(|(index, _)| *index);
    (owner, all.into_iter().skip(1).collect())
}

fn found_file(
    file: u64,
    path: PathAddress,
    refs: u64,
    uses: &Uses,
    tasks: &[Task],
    tables: &HashMap<u64, Vec<usize>>,
    spaces: &HashMap<u64, Vec<usize>>,
) -> Found {
    let mut descriptors = uses.descriptors.clone();
    descriptors.sort_by_key(|(_, fd)| *fd);
    let no_users = Vec::new();
    let by_table = descriptors.iter().flat_map(|(table, fd)| {
        tables
            .get(table)
            .unwrap_or(&no_users)
            .iter()
            .map(|index| (*index, Some(*fd)))
    });
    let by_space = uses.executed_by.iter().chain(&uses.mapped_by).flat_map(|space| {
        spaces
            .get(space)
            .unwrap_or(&no_users)
            .iter()
            .map(|index| (*index, None))
    });
    let (owner, sharers) = split(tasks, by_table.chain(by_space));
    let mut kinds = Vec::new();
    if !uses.descriptors.is_empty() {
        kinds.push(Kind::Fd);
    }
    if !uses.executed_by.is_empty() {
        kinds.push(Kind::Exe);
    }
    if !uses.mapped_by.is_empty() {
        kinds.push(Kind::Mmap);
    }
    let also = kinds.split_off(1.min(kinds.len()));
    let own_table = owner.map(|index| tasks[index].files);
    let fd = descriptors
        .iter()
        .find(|(table, _)| Some(*table) == own_table)
        .map(|(_, fd)| *fd);
    let kind = kinds.first().copied().unwrap_or(Kind::Mmap);
    Found {
        kind,
        also,
        refs,
        object: file,
        path,
        owner,
        fd,
        sharers,
    }
}
