//! All references on a mount, its slots and its private copies, found by looking.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    child_mount::ChildMounts,
    collectors::collect,
    context::Kernel,
    describe::Describe,
    listing::note,
    mount::Mount,
    reference::Reference,
    subject::{LedgerFile, Subject},
    walk::{CUT_SHORT, Walk},
};
use crate::model::{Kind, Through};

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
    /// What is only suspected.
    #[serde(default)]
    pub candidates: Vec<Reference>,
    /// Whether a child mount holds a reference on its parent on this kernel.
    pub children_counted: bool,
    /// What could not be looked at.
    pub gaps: Vec<String>,
}

/// Takes a snapshot; `task` is any task of the host, `ledger` was read before, `now` gives the boot clock.
#[must_use]
pub fn snapshot(
    kernel: Kernel<'_>,
    target: &Mount,
    task: u64,
    ledger: &[LedgerFile],
    now: impl Fn() -> u64,
) -> Snapshot {
    let started = now();
    kernel.memory.budget().begin();
    let mut gaps = Vec::new();
    let slots = kernel.slots(target);
    note(
        &mut gaps,
        slots.complete,
        "the propagation of the parent changed under the walk",
    );
    let blocking: Vec<&Mount> = std::iter::once(target).chain(&slots.mounts).collect();
    let before = kernel.counts(&blocking);
    let same_superblock = kernel.mounts_of_superblock(target.superblock).or_note(
        &mut gaps,
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

    let tasks = kernel.tasks(task);
    note(
        &mut gaps,
        tasks.complete,
        "the list of tasks changed under the walk",
    );
    let tasks = tasks.all;
    let children = ChildMounts::of(kernel, target, &mut gaps);
    let own: HashSet<u64> = roles.keys().copied().collect();
    let interest = own.iter().copied().chain(children.addresses()).collect();
    let subject = Subject {
        target: Some(target),
        blocking: &blocking,
        counts: &before,
        ledger,
    };
    let mut walk = Walk::new(kernel, interest, subject, &tasks, &mut gaps);
    collect(&mut walk);
    let mut found = walk.found;
    children.add_to(kernel, &mut found, (target.address, &own), &tasks);

    let named = Describe::new(kernel, &roles, &found, &tasks).references(found);
    let (candidates, mut references): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|reference| reference.holder.reason.is_some());
    merge_mappings(&mut references);
    references.sort_by_key(|reference| (reference.holder.through, reference.start, reference.holder.fd));
    let after = kernel.counts(&blocking);
    note(&mut gaps, !kernel.memory.budget().is_spent(), CUT_SHORT);
    let addresses: Vec<u64> = blocking.iter().map(|mount| mount.namespace).collect();
    let namespaces = kernel.namespace_numbers(&addresses);
    let mut states = blocking
        .iter()
        .zip(before.into_iter().zip(after))
        .map(|(mount, (before, after))| {
            let children = kernel.children(mount).items;
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
        candidates,
        children_counted: kernel.layout.children_counted,
        gaps,
        finished: now(),
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
                merged[*index].holder.refs += reference.holder.refs;
                merged[*index].writes |= reference.writes;
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
