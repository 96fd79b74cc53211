//! All references on a mount, its slots and its private copies, found by looking.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    context::Kernel,
    dentry::Paths,
    file::{Descriptor, PathAddress, access},
    mount::Mount,
    task::Task,
};
use crate::model::{Holder, Kind, Process, Sharer, Text, Through};

/// A mount at the moment of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountState {
    /// Address of the `struct mount`: a key within the stream, until it is freed.
    pub address: u64,
    /// `mnt_id`.
    pub mount_id: u32,
    /// Number of its namespace.
    pub namespace: Option<u32>,
    /// The kernel's count before and after the snapshot; `None` where it cannot be read.
    pub counts: [Option<i32>; 2],
    /// Number of child mounts.
    pub children: u64,
    /// Child mounts that cover its root.
    pub covering: u64,
}

/// A reference that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Address of the mount that it is on.
    pub mount: u64,
    /// Address of what holds it (`struct file`, `fs_struct`, child mount).
    pub object: u64,
    /// Start of the owner, boot clock, ns: with the pid it names a process for good.
    pub start: u64,
    /// What is known of it.
    pub holder: Holder,
}

/// The references on a target, its slots and its private copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Boot clock when it began, ns.
    pub started: u64,
    /// Boot clock when it was done, ns.
    pub finished: u64,
    /// The target.
    pub target: MountState,
    /// The slots, in the order of the kernel's busy check.
    pub slots: Vec<MountState>,
    /// What was found.
    pub references: Vec<Reference>,
    /// Whether a child mount holds a reference on its parent on this kernel.
    pub children_counted: bool,
    /// What could not be looked at.
    pub gaps: Vec<String>,
}

/// Takes a snapshot; `task` is any task of the host, `now` gives the boot clock.
#[must_use]
pub fn snapshot(kernel: Kernel<'_>, target: &Mount, task: u64, now: impl Fn() -> u64) -> Snapshot {
    let started = now();
    let mut gaps = Vec::new();
    let slots = kernel.slots(target);
    note(
        &mut gaps,
        slots.complete,
        "the propagation of the parent changed under the walk",
    );
    let blocking: Vec<&Mount> = std::iter::once(target).chain(&slots.mounts).collect();
    let before = kernel.counts(&blocking);
    let (same_superblock, complete) = kernel.mounts_of_superblock(target.superblock);
    note(
        &mut gaps,
        complete,
        "the list of mounts of the file system changed under the walk",
    );

    let mut roles: HashMap<u64, Through> = same_superblock
        .iter()
        .map(|address| (*address, Through::PrivateCopy))
        .collect();
    roles.extend(
        slots
            .mounts
            .iter()
            .map(|mount| (mount.address, Through::PropagatedCopy)),
    );
    roles.insert(target.address, Through::Target);

    let mut walk = Walk {
        kernel,
        interest: roles.keys().copied().collect(),
        gaps: &mut gaps,
        found: Vec::new(),
    };
    let tasks = walk.tasks(task);
    walk.directories(&tasks);
    walk.files(&tasks);
    walk.child_mounts(&blocking);
    let found = walk.found;

    let mut references = Describe::new(kernel, &roles, &found, &tasks).references(found);
    merge_mappings(&mut references);
    references.sort_by_key(|reference| (reference.holder.through, reference.start, reference.holder.fd));
    let after = kernel.counts(&blocking);
    let addresses: Vec<u64> = blocking.iter().map(|mount| mount.namespace).collect();
    let namespaces = kernel.namespace_numbers(&addresses);
    let mut states = blocking
        .iter()
        .zip(before.into_iter().zip(after))
        .map(|(mount, (before, after))| {
            let (children, _) = kernel.children(mount);
            let covering = kernel
                .mounts(&children)
                .iter()
                .flatten()
                .filter(|child| child.mountpoint == mount.root)
                .count();
            MountState {
                address: mount.address,
                mount_id: mount.id,
                namespace: namespaces.get(&mount.namespace).copied(),
                counts: [before, after],
                children: children.len() as u64,
                covering: covering as u64,
            }
        });
    let target = states
        .next()
        .unwrap_or_else(|| unreachable!("the target is the first of the blocking mounts"));
    Snapshot {
        started,
        slots: states.collect(),
        target,
        references,
        children_counted: kernel.layout.children_counted,
        gaps,
        finished: now(),
    }
}

fn note(gaps: &mut Vec<String>, complete: bool, what: &str) {
    if !complete {
        gaps.push(what.to_owned());
    }
}

/// A reference before it has names.
#[derive(Debug)]
struct Found {
    kind: Kind,
    also: Vec<Kind>,
    refs: u64,
    object: u64,
    path: PathAddress,
    /// Index of the owner in the list of tasks.
    owner: Option<usize>,
    fd: Option<u32>,
    /// Other processes: index of a task, descriptor.
    sharers: Vec<(usize, Option<u32>)>,
}

/// How an open file is used.
#[derive(Debug, Default)]
struct Uses {
    descriptors: Vec<(u64, u32)>,
    executed_by: BTreeSet<u64>,
    mapped_by: BTreeSet<u64>,
}

struct Walk<'k, 'g> {
    kernel: Kernel<'k>,
    interest: HashSet<u64>,
    gaps: &'g mut Vec<String>,
    found: Vec<Found>,
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

impl Walk<'_, '_> {
    fn tasks(&mut self, task: u64) -> Vec<Task> {
        let tasks = self.kernel.tasks(task);
        note(
            self.gaps,
            tasks.complete,
            "the list of tasks changed under the walk",
        );
        tasks.all
    }

    /// Working and root directories: one reference each, whatever threads share them.
    fn directories(&mut self, tasks: &[Task]) {
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

    fn files(&mut self, tasks: &[Task]) {
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
    fn child_mounts(&mut self, blocking: &[&Mount]) {
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

fn unique(files: impl Iterator<Item = u64>) -> Vec<u64> {
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

/// Gives what was found its names.
struct Describe<'k, 'd> {
    kernel: Kernel<'k>,
    paths: Paths<'k>,
    roles: &'d HashMap<u64, Through>,
    tasks: &'d [Task],
    comms: HashMap<usize, Text>,
    mounts: HashMap<u64, Mount>,
    numbers: HashMap<u64, u32>,
    task_namespaces: HashMap<u64, u64>,
}

impl<'k, 'd> Describe<'k, 'd> {
    fn new(kernel: Kernel<'k>, roles: &'d HashMap<u64, Through>, found: &[Found], tasks: &'d [Task]) -> Self {
        let mut wanted: Vec<usize> = found
            .iter()
            .flat_map(|found| {
                found
                    .owner
                    .into_iter()
                    .chain(found.sharers.iter().map(|(index, _)| *index))
            })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let addresses: Vec<u64> = wanted.iter().map(|index| tasks[*index].address).collect();
        let comms = wanted.iter().copied().zip(kernel.comms(&addresses));
        let comms = comms
            .map(|(index, comm)| (index, comm.map_or_else(Text::default, Text::from)))
            .collect();

        let used: Vec<u64> = unique(found.iter().map(|found| found.path.mount));
        let mounts: HashMap<u64, Mount> = used
            .iter()
            .copied()
            .zip(kernel.mounts(&used))
            .filter_map(|(address, mount)| Some((address, mount?)))
            .collect();
        let owners: Vec<Task> = wanted.iter().map(|index| tasks[*index].clone()).collect();
        let task_namespaces = kernel.mount_namespaces(&owners);
        let namespaces: Vec<u64> = unique(
            mounts
                .values()
                .map(|mount| mount.namespace)
                .chain(task_namespaces.values().copied()),
        );
        let mut paths = Paths::new(kernel);
        paths.add_mounts(mounts.values());
        let dentries: Vec<u64> = found.iter().map(|found| found.path.dentry).collect();
        paths.load(&dentries);
        let numbers = kernel.namespace_numbers(&namespaces);
        Self {
            kernel,
            paths,
            roles,
            tasks,
            comms,
            mounts,
            numbers,
            task_namespaces,
        }
    }

    fn references(mut self, found: Vec<Found>) -> Vec<Reference> {
        found
            .into_iter()
            .filter_map(|found| self.reference(found))
            .collect()
    }

    fn process(&self, index: usize) -> Process {
        let task = &self.tasks[index];
        let namespace = self
            .task_namespaces
            .get(&task.nsproxy)
            .and_then(|address| self.numbers.get(address));
        Process {
            pid: task.tgid,
            tid: Some(task.tid),
            comm: self.comms.get(&index).cloned().unwrap_or_default(),
            exe: self.exe(task),
            mount_namespace: namespace.copied(),
            ..Process::default()
        }
    }

    fn exe(&self, task: &Task) -> Option<Text> {
        let t = &self.kernel.layout.table;
        let file = self.kernel.memory.word(task.mm, t.mm_exe_file)?;
        let path = self.kernel.path_addresses(&[file], t.file_path).pop().flatten()?;
        let root = self.root(task);
        Paths::new(self.kernel)
            .seen_from(path.mount, path.dentry, root)
            .map(Text::from)
    }

    fn root(&self, task: &Task) -> Option<(u64, u64)> {
        let offset = self.kernel.layout.table.fs_root;
        let root = self.kernel.path_addresses(&[task.fs], offset).pop().flatten()?;
        Some((root.mount, root.dentry))
    }

    fn reference(&mut self, found: Found) -> Option<Reference> {
        let mount = self.mounts.get(&found.path.mount)?.clone();
        let through = self
            .roles
            .get(&mount.address)
            .copied()
            .unwrap_or(Through::PrivateCopy);
        let (path, deleted) = self
            .paths
            .in_mount(mount.root, found.path.dentry)
            .unwrap_or_default();
        let root = found.owner.and_then(|index| self.root(&self.tasks[index]));
        let seen_as = self
            .paths
            .seen_from(mount.address, found.path.dentry, root)
            .map(Text::from);
        let flags = if found.kind == Kind::Fd {
            self.kernel.file_flags(found.object)
        } else {
            None
        };
        let parent = self.paths.mount(mount.parent);
        let path = Text::from(path);
        let holder = Holder {
            kind: found.kind,
            also: found.also,
            refs: found.refs,
            process: found.owner.map(|index| self.process(index)),
            fd: found.fd,
            access: flags.map(|flags| access(flags).to_owned()),
            shared_with: found
                .sharers
                .iter()
                .map(|(index, fd)| Sharer {
                    pid: self.tasks[*index].tgid,
                    comm: self.comms.get(index).cloned().unwrap_or_default(),
                    fd: *fd,
                })
                .collect(),
            path_base64: path.base64_if_lossy(),
            path,
            deleted,
            seen_as_base64: seen_as.as_ref().and_then(Text::base64_if_lossy),
            seen_as,
            mount_id: Some(mount.id),
            mount_namespace: self.numbers.get(&mount.namespace).copied(),
            through,
            counted: false,
            propagation: parent.map(|parent| parent.propagation().to_owned()),
            opened: None,
            opened_by: None,
            attempts_blocked: 0,
            evidence: vec!["snapshot".to_owned()],
        };
        let start = found.owner.map_or(0, |index| self.tasks[index].start);
        Some(Reference {
            mount: mount.address,
            object: found.object,
            start,
            holder,
        })
    }
}

/// Mapped files of one process on one mount become one entry with their sum: 80 libraries are one cause.
fn merge_mappings(references: &mut Vec<Reference>) {
    let mut first: HashMap<(u64, u32, u64), usize> = HashMap::new();
    let mut merged: Vec<Reference> = Vec::with_capacity(references.len());
    references.sort_by(|a, b| a.holder.path.cmp(&b.holder.path));
    for reference in references.drain(..) {
        let pid = reference.holder.process.as_ref().map_or(0, |process| process.pid);
        let key = (reference.mount, pid, reference.start);
        match first.get(&key) {
            Some(index) if reference.holder.kind == Kind::Mmap => {
                merged[*index].holder.refs += reference.holder.refs
            }
            _ => {
                if reference.holder.kind == Kind::Mmap {
                    first.insert(key, merged.len());
                }
                merged.push(reference);
            }
        }
    }
    *references = merged;
}
