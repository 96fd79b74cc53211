//! The owner of a namespace: copies are grouped by pod owner, container or unit, not listed one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    plan::{At, CopyAt},
    view::{Space, View},
};
use crate::model::{CopiedMount, Group, Workload};

/// Copies that are listed of one workload.
const COPIES_MAX: usize = 20;

/// Two namespaces with the same key belong to one workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Kind, name, Kubernetes namespace.
    Owner(String, String, Option<String>),
    Pod(String, String),
    Container(String),
    Unit(String),
    Process(u32),
    /// No process is in it.
    Nobody(u32),
}

fn key(space: &Space) -> Key {
    let Some(first) = &space.first else {
        return Key::Nobody(space.number);
    };
    let Some(of) = &first.container else {
        return match &first.unit {
            // The scope of a login has all programs started there.
            Some(unit) if !space.host && unit.strip_suffix(".scope").is_none() => Key::Unit(unit.clone()),
            _ => Key::Process(first.pid),
        };
    };
    match (&of.owner, &of.pod, &of.pod_namespace) {
        (Some(owner), _, namespace) => Key::Owner(owner.kind.clone(), owner.name.clone(), namespace.clone()),
        (None, Some(pod), Some(namespace)) => Key::Pod(namespace.clone(), pod.clone()),
        _ => Key::Container(of.id.clone()),
    }
}

/// The workload in a namespace.
pub(super) fn workload(space: &Space) -> Workload {
    Workload {
        process: space.first.clone(),
        processes: space.processes,
        same_namespace: false,
    }
}

/// Groups copies by workload: first those with the most used copies, then those with the most copies.
pub(super) fn groups(
    view: &View,
    copies: &[CopyAt],
    home: impl Fn(&CopyAt) -> usize,
    describe: impl Fn(&CopyAt) -> CopiedMount,
    in_use: impl Fn(At) -> bool,
) -> Vec<Group> {
    let mut by: BTreeMap<(Key, bool), Vec<&CopyAt>> = BTreeMap::new();
    for copy in copies {
        let space = &view.spaces[copy.at.0];
        by.entry((key(space), home(copy) == copy.at.0))
            .or_default()
            .push(copy);
    }
    let mut groups: Vec<Group> = by
        .into_iter()
        .map(|((_, same_namespace), mut copies)| {
            copies.sort_by_cached_key(|copy| (!in_use(copy.at), view.get(copy.at).1.path.clone()));
            let spaces: BTreeSet<usize> = copies.iter().map(|copy| copy.at.0).collect();
            let processes = spaces.iter().map(|space| view.spaces[*space].processes).sum();
            let first = spaces.first().map(|space| &view.spaces[*space]);
            Group {
                workload: Workload {
                    process: first.and_then(|space| space.first.clone()),
                    processes,
                    same_namespace,
                },
                mount_namespaces: spaces.iter().map(|space| view.spaces[*space].number).collect(),
                mounts: copies.len() as u64,
                in_use: copies.iter().filter(|copy| in_use(copy.at)).count() as u64,
                copies: copies.into_iter().take(COPIES_MAX).map(&describe).collect(),
                fixes: Vec::new(),
            }
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse((group.in_use, group.mounts)));
    groups
}
