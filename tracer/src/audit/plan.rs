//! Finds the containers' own mounts and their copies: those that an umount propagates to, and those that it does not
//! reach.

use std::collections::{HashMap, HashSet};

use crate::model::Propagation;

use super::{
    propagation::PropagationTree,
    view::{Owner, Space, State, View},
};
use crate::{kernel::Mount, live::Mounted, model::Through};

/// A place in the view: index of the space, index of the mount.
pub(super) type At = (usize, usize);

/// A mount of a container.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) at: At,
    pub(super) owner: Owner,
    /// Copies that its umount propagates to, and that would refuse it.
    pub(super) slots: Vec<u64>,
}

/// A copy, of the target with that index.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyAt {
    pub(super) target: usize,
    pub(super) at: At,
}

/// The mounts to look at.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) targets: Vec<Watched>,
    pub(super) pins: Vec<CopyAt>,
    pub(super) leaks: Vec<CopyAt>,
    /// The parents' propagation, by address of the mount.
    propagation: HashMap<u64, Propagation>,
    /// Number of mounts on a target or on a copy that an umount propagates to, by address.
    children: HashMap<u64, u64>,
    /// Copies of watched mounts, by space.
    pub(super) copies: HashMap<usize, u64>,
}

impl View {
    pub(super) fn get(&self, at: At) -> (&Space, &Mounted) {
        let space = &self.spaces[at.0];
        (space, &space.mounts[at.1])
    }
}

/// Finds the watched mounts and their copies. A mount is watched by its path where it was made: in the host's
/// namespace, else in the oldest one that has it.
#[must_use]
pub fn plan(
    view: &View,
    is_watched: &dyn Fn(&[u8]) -> bool,
    owner: &dyn Fn(&Space, &Mounted) -> Owner,
) -> Plan {
    let mut plan = Plan::default();
    let placed = || {
        view.spaces
            .iter()
            .enumerate()
            .flat_map(|(space, of)| (0..of.mounts.len()).map(move |mount| (space, mount)))
    };
    let all = placed().map(|at| &view.get(at).1.mount);
    let mut propagation = PropagationTree::new(all.chain(&view.anonymous));

    // The place of each original: by file system and root.
    let mut home: HashMap<(u64, u64), usize> = HashMap::new();
    let mut at_home: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    for at in placed() {
        let (space, mounted) = view.get(at);
        let key = key(&mounted.mount);
        let elsewhere = home.get(&key).is_some_and(|space| *space != at.0);
        if elsewhere || !is_watched(&mounted.path) {
            continue;
        }
        home.insert(key, at.0);
        at_home.entry(key).or_default().push(plan.targets.len());
        plan.targets.push(Watched {
            at,
            owner: owner(space, mounted),
            slots: propagation.slots(&mounted.mount),
        });
    }
    let is_target: HashSet<At> = plan.targets.iter().map(|target| target.at).collect();

    let others: Vec<At> = placed().filter(|at| !is_target.contains(at)).collect();
    let exclusive = exclusive(view, &plan.targets, &others);
    let mut slot_of: HashMap<u64, usize> = HashMap::new();
    for (index, target) in plan.targets.iter().enumerate() {
        for slot in &target.slots {
            slot_of.entry(*slot).or_insert(index);
        }
    }
    let inhabited = inhabited(view, &plan.targets, &at_home);
    for at in others {
        let (space, mounted) = view.get(at);
        let mount = &mounted.mount;
        let slot = slot_of.get(&mount.address).copied();
        let same = at_home.get(&key(mount)).map_or(&[][..], Vec::as_slice);
        let other = exclusive.get(&mount.superblock).copied();
        let all: Vec<usize> = slot
            .into_iter()
            .chain(same.iter().copied())
            .chain(other)
            .collect();
        let Some(first) = all.first().copied() else {
            continue;
        };
        *plan.copies.entry(at.0).or_default() += 1;
        // The container itself, and its pod, use it as they should.
        let first_of = space
            .first
            .as_ref()
            .and_then(|process| process.container.as_ref());
        let is_own = |index: &usize| {
            let owner = &plan.targets[*index].owner;
            let lives_in = |other: &usize| {
                let other_owner = &plan.targets[*other].owner;
                other == index || owner.is(other_owner.container.as_ref(), other_owner.pod_uid.as_deref())
            };
            owner.is(first_of, space.pod_uid.as_deref())
                || inhabited
                    .get(&at.0)
                    .is_some_and(|lives| lives.iter().any(lives_in))
        };
        if all.iter().any(is_own) {
            continue;
        }
        let copy = CopyAt { target: first, at };
        // The kernel skips a copy that has child mounts, except one that covers it (kernel fact 2).
        let (children, covering) = propagation.children(mount);
        if slot.is_some() && children == covering.min(1) {
            plan.pins.push(copy);
        } else if at.0 != plan.targets[first].at.0 {
            plan.leaks.push(copy);
        }
    }
    for at in placed().filter(|at| {
        is_target.contains(at)
            || slot_of.contains_key(&view.get(*at).1.mount.address)
            || at_home.contains_key(&key(&view.get(*at).1.mount))
    }) {
        let mount = &view.get(at).1.mount;
        if let Some(parent) = propagation.mount(mount.parent) {
            plan.propagation.insert(mount.address, parent.propagation());
        }
        plan.children
            .insert(mount.address, propagation.children(mount).0 as u64);
    }
    plan
}

/// File systems that are mounted at home as targets only, with one of them: any mount of theirs elsewhere keeps them.
/// nsfs has all namespaces in one file system.
fn exclusive(view: &View, targets: &[Watched], others: &[At]) -> HashMap<u64, usize> {
    let mut exclusive: HashMap<u64, usize> = HashMap::new();
    for (index, target) in targets.iter().enumerate() {
        let mount = &view.get(target.at).1.mount;
        if !view.nsfs.contains_key(&mount.address) {
            exclusive.entry(mount.superblock).or_insert(index);
        }
    }
    for at in others {
        let superblock = view.get(*at).1.mount.superblock;
        let target = exclusive.get(&superblock);
        if target.is_some_and(|target| targets[*target].at.0 == at.0) {
            exclusive.remove(&superblock);
        }
    }
    exclusive
}

fn key(mount: &Mount) -> (u64, u64) {
    (mount.superblock, mount.root)
}

/// Maps targets to the spaces whose root directory they are: there their containers live.
fn inhabited(
    view: &View,
    targets: &[Watched],
    at_home: &HashMap<(u64, u64), Vec<usize>>,
) -> HashMap<usize, Vec<usize>> {
    let mut inhabited: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, space) in view.spaces.iter().enumerate() {
        let roots = space.mounts.iter().filter(|mounted| mounted.path == b"/");
        for mounted in roots {
            let of = at_home.get(&key(&mounted.mount)).into_iter().flatten();
            let of = of.filter(|target| targets[**target].at.0 != index);
            inhabited.entry(index).or_default().extend(of);
        }
    }
    inhabited.retain(|_, targets| !targets.is_empty());
    inhabited
}

impl Plan {
    /// The mounts to search for references.
    #[must_use]
    pub fn roles(&self, view: &View) -> HashMap<u64, Through> {
        let address = |at: At| view.get(at).1.mount.address;
        let mut roles = HashMap::new();
        roles.extend(
            view.detached
                .iter()
                .map(|mount| (mount.address, Through::PrivateCopy)),
        );
        roles.extend(
            self.leaks
                .iter()
                .map(|copy| (address(copy.at), Through::PrivateCopy)),
        );
        roles.extend(
            self.pins
                .iter()
                .map(|copy| (address(copy.at), Through::PropagatedCopy)),
        );
        roles.extend(
            self.targets
                .iter()
                .map(|target| (address(target.at), Through::Target)),
        );
        roles
    }

    /// Number of mounts on a target, or on a copy of one.
    #[must_use]
    pub fn children(&self, mount: u64) -> u64 {
        self.children.get(&mount).copied().unwrap_or(0)
    }

    /// Propagation of the parent of a target, or of a copy of one.
    #[must_use]
    pub fn propagation(&self, mount: u64) -> Option<Propagation> {
        self.propagation.get(&mount).copied()
    }

    /// True if a target's container is gone, and no runtime knows it any more.
    pub(super) fn is_gone(&self, target: usize) -> bool {
        self.targets[target].owner.state == State::Gone
    }
}
