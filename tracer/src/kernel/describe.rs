//! Names for what a walk found: processes, paths, mounts, namespaces.

use std::collections::HashMap;

use super::{
    context::Kernel,
    dentry::Paths,
    file::access,
    found::{Found, unique},
    mount::Mount,
    reference::Reference,
    task::Task,
};
use crate::model::{EvidenceSource, Holder, Kind, Process, Sharer, Text, Through};

/// Gives what was found its names.
pub(super) struct Describe<'k, 'd> {
    kernel: Kernel<'k>,
    paths: Paths<'k>,
    roles: &'d HashMap<u64, Through>,
    tasks: &'d [Task],
    comms: HashMap<usize, Text>,
    mounts: HashMap<u64, Mount>,
    numbers: HashMap<u64, u32>,
    task_namespaces: HashMap<u64, u64>,
    processes: HashMap<usize, Process>,
}

impl<'k, 'd> Describe<'k, 'd> {
    /// Reads what all of them need, in batches.
    pub(super) fn new(
        kernel: Kernel<'k>,
        roles: &'d HashMap<u64, Through>,
        found: &[Found],
        tasks: &'d [Task],
    ) -> Self {
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
        // The task may be another one's by now: then there is no name to be had any more.
        let comms: Vec<(usize, Vec<u8>)> = comms.filter_map(|(index, comm)| Some((index, comm?))).collect();
        let comms = comms
            .into_iter()
            .filter(|(index, _)| kernel.is_task(&tasks[*index]))
            .map(|(index, comm)| (index, Text::from(comm)))
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
            processes: HashMap::new(),
        }
    }

    /// The references, named.
    pub(super) fn references(mut self, found: Vec<Found>) -> Vec<Reference> {
        found
            .into_iter()
            .filter_map(|found| self.reference(found))
            .collect()
    }

    fn process(&mut self, index: usize) -> Process {
        if let Some(known) = self.processes.get(&index) {
            return known.clone();
        }
        let process = self.new_process(index);
        self.processes.insert(index, process.clone());
        process
    }

    fn new_process(&mut self, index: usize) -> Process {
        let task = &self.tasks[index];
        let namespace = self
            .task_namespaces
            .get(&task.nsproxy)
            .and_then(|address| self.numbers.get(address))
            .copied();
        Process {
            pid: task.tgid,
            tid: Some(task.tid),
            comm: self.comms.get(&index).cloned().unwrap_or_default(),
            exe: self.exe(task),
            mount_namespace: namespace,
            ..Process::default()
        }
    }

    fn exe(&mut self, task: &Task) -> Option<Text> {
        let t = &self.kernel.layout.table;
        let file = self.kernel.memory.word(task.mm, t.mm_exe_file)?;
        let path = self.kernel.path_addresses(&[file], t.file_path).pop().flatten()?;
        let root = self.root(task);
        let path = self.paths.seen_from(path.mount, path.dentry, root);
        path.filter(|_| self.kernel.is_task(task))
            .map(|path| Text::from(path.shown()))
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
            .map(|(path, deleted)| (path.shown(), deleted))
            .unwrap_or_default();
        let root = found.owner.and_then(|index| self.root(&self.tasks[index]));
        let seen_as = self
            .paths
            .seen_from(mount.address, found.path.dentry, root)
            .map(|path| Text::from(path.shown()));
        let flags = if found.kind == Kind::Fd {
            self.kernel.file_flags(found.object)
        } else {
            None
        };
        let writes = is_file(found.kind) && self.kernel.is_open_for_writing(found.object);
        let parent = self.paths.mount(mount.parent);
        let path = Text::from(path);
        let holder = Holder {
            kind: found.kind,
            also: found.also,
            refs: found.refs,
            process: found.owner.map(|index| self.process(index)),
            held_by: found.held_by,
            reason: found.reason,
            fd: found.fd,
            access: flags.map(access),
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
            propagation: parent.map(|parent| parent.propagation()),
            opened: None,
            opened_by: None,
            entered: None,
            attempts_blocked: 0,
            evidence: vec![EvidenceSource::Snapshot],
            takes_along: found.takes_along,
        };
        let start = found.owner.map_or(0, |index| self.tasks[index].start);
        Some(Reference {
            mount: mount.address,
            object: found.object,
            dentry: found.path.dentry,
            writes,
            start,
            holder,
        })
    }
}

/// Whether the object of such a reference is a `struct file`.
fn is_file(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Fd
            | Kind::Exe
            | Kind::Mmap
            | Kind::ScmRights
            | Kind::IoUring
            | Kind::Loop
            | Kind::Swap
            | Kind::BinfmtMisc
            | Kind::Kernel
    )
}
