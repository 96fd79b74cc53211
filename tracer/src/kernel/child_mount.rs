//! Child mounts: of the target they block; the kernel skips slots that have any (kernel fact 2). Each is told with
//! those who use it or what is mounted below it: they would refuse its own umount.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    context::Kernel,
    file::PathAddress,
    found::Found,
    listing::{Listing, note},
    mount::Mount,
    task::Task,
};
use crate::model::{Kind, TakesAlong, Text};

/// Mounts below a target that are looked at, at the most.
const BELOW_MAX: usize = 4096;

/// Peers of a target that are looked at, at the most.
const PEERS_MAX: usize = 256;

/// The child mounts of a target, and everything below them.
#[derive(Debug, Default)]
pub(super) struct ChildMounts {
    children: Vec<Mount>,
    /// The child that a mount is, or is below.
    child_of: HashMap<u64, u64>,
    /// Of each child: mounts in its place on peers of the target.
    peers: HashMap<u64, u64>,
}

impl ChildMounts {
    /// Walks down from the target.
    pub(super) fn of(kernel: Kernel<'_>, target: &Mount, gaps: &mut Vec<String>) -> Self {
        let Listing {
            items: addresses,
            mut complete,
        } = kernel.children(target);
        let children: Vec<Mount> = kernel.mounts(&addresses).into_iter().flatten().collect();
        let mut child_of: HashMap<u64, u64> = HashMap::new();
        let mut left: Vec<(Mount, u64)> = children
            .iter()
            .map(|child| (child.clone(), child.address))
            .collect();
        while let Some((mount, child)) = left.pop() {
            if mount.address == target.address || child_of.insert(mount.address, child).is_some() {
                continue;
            }
            if child_of.len() >= BELOW_MAX {
                complete = false;
                break;
            }
            let below = kernel.children(&mount).joined_to(&mut complete);
            left.extend(
                kernel
                    .mounts(&below)
                    .into_iter()
                    .flatten()
                    .map(|mount| (mount, child)),
            );
        }
        note(gaps, complete, "the list of child mounts changed under the walk");
        let peers = peers(kernel, target, &children);
        Self {
            children,
            child_of,
            peers,
        }
    }

    /// All mounts below the target.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.child_of.keys().copied()
    }

    /// Adds the child mounts to what was found, and gives them the users of the mounts below the target. These are
    /// no references on the target: what is on no mount of `roles` goes.
    pub(super) fn add_to(
        &self,
        kernel: Kernel<'_>,
        found: &mut Vec<Found>,
        (target, roles): (u64, &HashSet<u64>),
        tasks: &[Task],
    ) {
        // Of each process one.
        let mut users: HashMap<u64, BTreeMap<u32, (usize, Option<u32>)>> = HashMap::new();
        for reference in found.iter().filter(|reference| reference.reason.is_none()) {
            let Some(child) = self.child_of.get(&reference.path.mount) else {
                continue;
            };
            let all = reference.owner.map(|owner| (owner, reference.fd));
            for (index, fd) in all.into_iter().chain(reference.sharers.iter().copied()) {
                let of_child = users.entry(*child).or_default();
                let (_, known) = of_child.entry(tasks[index].tgid).or_insert((index, fd));
                *known = known.or(fd);
            }
        }
        found.retain(|reference| {
            roles.contains(&reference.path.mount) || !self.child_of.contains_key(&reference.path.mount)
        });
        let mut below: HashMap<u64, u64> = HashMap::new();
        for child in self.child_of.values() {
            *below.entry(*child).or_default() += 1;
        }
        for child in &self.children {
            let path = PathAddress {
                mount: target,
                dentry: child.mountpoint,
            };
            let users = users.remove(&child.address).unwrap_or_default();
            let takes_along = TakesAlong {
                // It is among those itself.
                below: below.get(&child.address).copied().unwrap_or(1) - 1,
                peers: self.peers.get(&child.address).copied().unwrap_or(0),
            };
            found.push(Found {
                held_by: kernel.device_name(child).map(Text::from),
                sharers: users.into_values().collect(),
                takes_along: Some(takes_along),
                ..Found::new(Kind::ChildMount, child.address, path)
            });
        }
    }
}

/// What is unmounted below a mount is unmounted below its peers as well.
fn peers(kernel: Kernel<'_>, target: &Mount, children: &[Mount]) -> HashMap<u64, u64> {
    let mut found = HashMap::new();
    if target.group == 0 {
        return found;
    }
    let receivers = kernel.propagation_set(target).items;
    let peers: Vec<Mount> = receivers
        .into_iter()
        .filter(|mount| mount.group == target.group)
        .take(PEERS_MAX)
        .collect();
    let places: HashMap<u64, u64> =
        (children.iter().map(|child| (child.mountpoint, child.address))).collect();
    for peer in peers {
        let addresses = kernel.children(&peer).items;
        for mount in kernel.mounts(&addresses).into_iter().flatten() {
            if let Some(child) = places.get(&mount.mountpoint) {
                *found.entry(*child).or_default() += 1;
            }
        }
    }
    found
}
