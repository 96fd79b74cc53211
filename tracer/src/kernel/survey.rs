//! The references on many mounts at once, and who keeps which mount namespace: one look at all tasks for a whole
//! audit. What `snapshot` finds on one target, with its books, this finds on all, without them.

use std::collections::{HashMap, HashSet};

use tracer_common::ABSENT;

use super::{
    collectors::collect,
    context::Kernel,
    describe::Describe,
    found::unique,
    listing::note,
    reference::Reference,
    subject::Subject,
    task::Task,
    walk::{CUT_SHORT, Walk},
};
use crate::model::Through;

/// A descriptor that keeps a mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceDescriptor {
    /// Address of the namespace.
    pub namespace: u64,
    /// Whose it is: a process id.
    pub pid: u32,
    /// When that process started, boot clock, ns.
    pub start: u64,
    /// The descriptor.
    pub fd: u32,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// On the mounts that were asked about.
    pub references: Vec<Reference>,
    /// Of the namespaces that were asked about.
    pub namespaces: Vec<NamespaceDescriptor>,
    /// What could not be looked at.
    pub gaps: Vec<String>,
}

/// Looks for the references on mounts, and for the descriptors of mount namespaces.
#[must_use]
#[expect(clippy::implicit_hasher, reason = "they are the maps of the walks")]
pub fn survey(
    kernel: Kernel<'_>,
    tasks: &[Task],
    roles: &HashMap<u64, Through>,
    namespaces: &HashSet<u64>,
) -> Survey {
    kernel.memory.budget().begin();
    let mut gaps = Vec::new();
    let interest = roles.keys().copied().collect();
    let mut walk = Walk::new(kernel, interest, Subject::default(), tasks, &mut gaps);
    collect(&mut walk);
    let descriptors = walk.namespace_descriptors(namespaces);
    let found = walk.found;
    let mut references = Describe::new(kernel, roles, &found, tasks).references(found);
    references.retain(|reference| reference.holder.reason.is_none());
    references.sort_by_key(|reference| (reference.mount, reference.start, reference.holder.fd));
    note(&mut gaps, !kernel.memory.budget().is_spent(), CUT_SHORT);
    Survey {
        references,
        namespaces: descriptors,
        gaps,
    }
}

impl Walk<'_, '_> {
    /// The descriptors that keep one of these mount namespaces (by address): files of nsfs.
    fn namespace_descriptors(&mut self, namespaces: &HashSet<u64>) -> Vec<NamespaceDescriptor> {
        let (kernel, census, tasks) = (self.kernel, &self.census, self.tasks);
        let offset = kernel.layout.table.mnt_ns_common;
        if namespaces.is_empty() {
            return Vec::new();
        }
        if offset == ABSENT {
            let what = "which descriptors keep mount namespaces could not be looked at";
            note(self.gaps, false, what);
            return Vec::new();
        }
        // An opened bind mount is on that mount, everything else of nsfs on the kernel's own.
        let mounts = unique(census.paths.values().map(|path| path.mount));
        let nsfs: HashSet<u64> = mounts
            .into_iter()
            .filter(|mount| kernel.file_system_name(*mount).as_deref() == Some(b"nsfs"))
            .collect();
        let files: Vec<(u64, u64)> = census
            .paths
            .iter()
            .filter(|(_, path)| nsfs.contains(&path.mount))
            .map(|(file, path)| (*file, path.dentry))
            .collect();
        let dentries: Vec<u64> = files.iter().map(|(_, dentry)| *dentry).collect();
        let keeps: HashMap<u64, u64> = files
            .into_iter()
            .zip(kernel.namespaces_of_dentries(&dentries))
            .filter_map(|((file, _), common)| {
                let namespace = common?.wrapping_sub(u64::from(offset));
                namespaces.contains(&namespace).then_some((file, namespace))
            })
            .collect();
        let mut found: Vec<NamespaceDescriptor> = census
            .descriptors
            .iter()
            .filter_map(|descriptor| Some((descriptor, *keeps.get(&descriptor.file)?)))
            .flat_map(|(descriptor, namespace)| {
                let users = census
                    .tables
                    .get(&descriptor.table)
                    .map_or(&[][..], Vec::as_slice);
                users.iter().map(move |index| NamespaceDescriptor {
                    namespace,
                    pid: tasks[*index].tgid,
                    start: tasks[*index].start,
                    fd: descriptor.fd,
                })
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
