//! Mounts as what keeps something: the copy, its namespace, and a process that is in there.

use std::collections::HashMap;

use super::{
    Host, Identities,
    mounts::{Mounted, MountsView},
    sampler::sample,
};
use crate::{
    kernel::{Kernel, Mount, Paths, Reader, Reference, Task},
    model::{EvidenceSource, Holder, Kind, Process, Propagation, Sharer, Text, Through},
};

/// Processes of a namespace that are named at the most.
const NAMED_MAX: usize = 16;

/// A look at who keeps something.
pub(super) struct Keepers<'s> {
    pub(super) kernel: Kernel<'s>,
    pub(super) host: &'s Host,
    pub(super) reader: &'s Reader,
    pub(super) identities: &'s Identities,
    pub(super) view: &'s MountsView,
    /// Number of the mount namespace of the caller.
    pub(super) caller: u32,
    /// Processes by the address of their mount namespace, the oldest first.
    processes: HashMap<u64, Vec<Task>>,
}

impl<'s> Keepers<'s> {
    pub(super) fn new(
        host: &'s Host,
        reader: &'s Reader,
        identities: &'s Identities,
        view: &'s MountsView,
        caller: u32,
    ) -> Self {
        let kernel = host.kernel(reader);
        let tasks = kernel.tasks(host.task()).all;
        let namespaces = kernel.mount_namespaces(&tasks);
        let mut processes: HashMap<u64, Vec<Task>> = HashMap::new();
        for task in tasks {
            if task.tid == task.tgid
                && let Some(namespace) = namespaces.get(&task.nsproxy)
            {
                processes.entry(*namespace).or_default().push(task);
            }
        }
        for tasks in processes.values_mut() {
            tasks.sort_by_key(|task| (task.start, task.tgid));
        }
        Self {
            kernel,
            host,
            reader,
            identities,
            view,
            caller,
            processes,
        }
    }

    /// All references on the mounts of a mount's file system.
    pub(super) fn references(&self, mount: &Mount) -> Vec<Reference> {
        sample(self.host, self.reader, self.identities, mount, &[]).references
    }

    /// A mount on top of a place, with those who use it: they would refuse its own umount.
    pub(super) fn on_top(&self, mounted: &Mounted, path: &[u8]) -> Holder {
        let users = self
            .references(&mounted.mount)
            .into_iter()
            .filter(|reference| reference.holder.through != Through::PrivateCopy)
            .filter_map(|reference| sharer(&reference.holder));
        let mut shared_with: Vec<Sharer> = users.collect();
        shared_with.sort_by_key(|sharer| sharer.pid);
        shared_with.dedup_by_key(|sharer| sharer.pid);
        Holder {
            kind: Kind::ChildMount,
            through: Through::Target,
            process: None,
            shared_with,
            ..self.described(mounted, Text::from(path.to_vec()))
        }
    }

    /// A mount of a file system that is kept by it, with the processes of its namespace. Where the caller is, and in the
    /// host's namespace, those are no answer.
    pub(super) fn mount(&self, mounted: &Mounted) -> Holder {
        let mount = &mounted.mount;
        let host = self.view.namespaces.first().map(|namespace| namespace.address);
        let namespace = self.view.mount(mount.address).map(|(namespace, _)| namespace);
        let local = namespace.is_some_and(|namespace| namespace.number == self.caller);
        let processes = match namespace {
            Some(namespace) if !local && Some(namespace.address) != host => self
                .processes
                .get(&namespace.address)
                .map_or(&[][..], Vec::as_slice),
            _ => &[],
        };
        let mut named = processes.iter().take(NAMED_MAX).map(|task| self.process(task));
        let process = named.next();
        let shared_with = named
            .map(|process| Sharer {
                pid: process.pid,
                comm: process.comm,
                fd: None,
            })
            .collect();
        let parent = self.view.mount(mount.parent).map(|(_, parent)| &parent.mount);
        let receives = parent.is_some_and(|parent| parent.propagation() != Propagation::Private);
        Holder {
            kind: Kind::Mount,
            through: match (local, receives) {
                (true, _) => Through::Target,
                (false, true) => Through::PropagatedCopy,
                (false, false) => Through::PrivateCopy,
            },
            process,
            shared_with,
            ..self.described(mounted, self.root(mount))
        }
    }

    /// The same of a mount that no task's namespace has: its namespace is kept by a descriptor or a bind mount, or it is
    /// in none (detached, or what an overlay keeps of a layer).
    pub(super) fn elsewhere(&self, mount: &Mount) -> Holder {
        let number = self.kernel.namespace_numbers(&[mount.namespace]);
        let namespace = number.get(&mount.namespace).copied();
        let by = match namespace {
            Some(_) => "its mount namespace has no process: a descriptor or a bind mount keeps it",
            None => "in no mount namespace: detached, or kept by an overlay",
        };
        let path = self.root(mount);
        Holder {
            kind: Kind::Mount,
            refs: 1,
            held_by: Some(Text::from(by)),
            path_base64: path.base64_if_lossy(),
            path,
            mount_id: Some(mount.id),
            mount_namespace: namespace,
            through: Through::PrivateCopy,
            counted: true,
            attempts_blocked: 1,
            evidence: vec![EvidenceSource::Snapshot],
            takes_along: None,
            ..Holder::default()
        }
    }

    fn described(&self, mounted: &Mounted, path: Text) -> Holder {
        let mount = &mounted.mount;
        let (namespace, parent) = (self.view.mount(mount.address), self.view.mount(mount.parent));
        let seen = Text::from(mounted.path.clone());
        Holder {
            refs: 1,
            held_by: self.kernel.device_name(mount).map(Text::from),
            path_base64: path.base64_if_lossy(),
            path,
            seen_as_base64: seen.base64_if_lossy(),
            seen_as: Some(seen),
            mount_id: Some(mount.id),
            mount_namespace: namespace.map(|(namespace, _)| namespace.number),
            propagation: parent.map(|(_, parent)| parent.mount.propagation()),
            counted: true,
            attempts_blocked: 1,
            evidence: vec![EvidenceSource::Snapshot],
            takes_along: None,
            ..Holder::default()
        }
    }

    /// The root of a mount, from that of its file system: what a bind mount shows.
    fn root(&self, mount: &Mount) -> Text {
        let path = Paths::new(self.kernel).in_superblock(mount.root);
        path.map_or_else(|| Text::from("/"), |path| Text::from(path.shown()))
    }

    /// A process, identified.
    pub(super) fn process(&self, task: &Task) -> Process {
        let comm = self.kernel.comms(&[task.address]).pop().flatten();
        let told = Process {
            pid: task.tgid,
            tid: Some(task.tid),
            comm: comm.map_or_else(Text::default, Text::from),
            ..Process::default()
        };
        self.identities.complete(self.kernel, &told, task.start)
    }

    /// All processes, by address of their namespace.
    pub(super) fn all_processes(&self) -> impl Iterator<Item = &Task> {
        self.processes.values().flatten()
    }
}

fn sharer(holder: &Holder) -> Option<Sharer> {
    let process = holder.process.as_ref()?;
    Some(Sharer {
        pid: process.pid,
        comm: process.comm.clone(),
        fd: holder.fd,
    })
}
