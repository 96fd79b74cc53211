//! Finds the mounts that an umount propagates to, from the mount tables: like `kernel::Slots`, for thousands of targets
//! at once.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::kernel::Mount;

/// All mounts by their keys for propagation.
#[derive(Debug, Default)]
pub(super) struct PropagationTree<'v> {
    by_address: HashMap<u64, &'v Mount>,
    groups: HashMap<u32, Vec<u64>>,
    slaves: HashMap<u64, Vec<u64>>,
    /// By parent and mountpoint.
    places: HashMap<(u64, u64), Vec<u64>>,
    children: HashMap<u64, Vec<u64>>,
    receivers: HashMap<u64, Vec<u64>>,
}

impl<'v> PropagationTree<'v> {
    pub(super) fn new(mounts: impl Iterator<Item = &'v Mount>) -> Self {
        let mut all = Self::default();
        for mount in mounts {
            if all.by_address.insert(mount.address, mount).is_some() {
                continue;
            }
            if mount.group != 0 {
                all.groups.entry(mount.group).or_default().push(mount.address);
            }
            if mount.master != 0 {
                all.slaves.entry(mount.master).or_default().push(mount.address);
            }
            if mount.parent != mount.address {
                let place = (mount.parent, mount.mountpoint);
                all.places.entry(place).or_default().push(mount.address);
                all.children.entry(mount.parent).or_default().push(mount.address);
            }
        }
        all
    }

    pub(super) fn mount(&self, address: u64) -> Option<&'v Mount> {
        self.by_address.get(&address).copied()
    }

    /// Number of mounts on it, and of those that cover its root.
    pub(super) fn children(&self, mount: &Mount) -> (usize, usize) {
        let children = self.children.get(&mount.address).map_or(&[][..], Vec::as_slice);
        let covers = |child: &&u64| {
            self.mount(**child)
                .is_some_and(|child| child.mountpoint == mount.root)
        };
        (children.len(), children.iter().filter(covers).count())
    }

    /// The mounts in the place of a mount under the peers and slaves of its parent.
    pub(super) fn slots(&mut self, target: &Mount) -> Vec<u64> {
        if target.parent == target.address {
            return Vec::new();
        }
        if !self.receivers.contains_key(&target.parent) {
            let found = self.receivers_of(target.parent);
            self.receivers.insert(target.parent, found);
        }
        let receivers = self.receivers.get(&target.parent);
        let slots = receivers
            .into_iter()
            .flatten()
            .filter_map(|parent| self.places.get(&(*parent, target.mountpoint)));
        let mut slots: Vec<u64> = slots.flatten().copied().collect();
        slots.retain(|slot| *slot != target.address);
        slots
    }

    /// Peers and slaves of a mount, their peers and slaves, and so on; itself left out.
    fn receivers_of(&self, mount: u64) -> Vec<u64> {
        let mut seen = HashSet::from([mount]);
        let mut found = Vec::new();
        let mut queue = VecDeque::from([mount]);
        let mut groups = HashSet::new();
        while let Some(address) = queue.pop_front() {
            let group = self.mount(address).map_or(0, |mount| mount.group);
            let peers = (group != 0 && groups.insert(group)).then(|| self.groups.get(&group));
            let next = peers
                .flatten()
                .into_iter()
                .chain(self.slaves.get(&address))
                .flatten();
            for address in next {
                if seen.insert(*address) {
                    found.push(*address);
                    queue.push_back(*address);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::PropagationTree;
    use crate::audit::testing::mount;

    #[test]
    fn slots_are_under_peers_and_slaves_of_the_parent() {
        // A host's root (1) with a peer (2), a slave (3), a slave of that slave (4), and a stranger (5).
        let mut roots = [mount(1), mount(2), mount(3), mount(4), mount(5)];
        (roots[0].group, roots[1].group) = (7, 7);
        (roots[2].master, roots[2].group) = (2, 8);
        roots[3].master = 3;
        let mut copies: Vec<_> = (11..=15).map(mount).collect();
        for (copy, root) in copies.iter_mut().zip(&roots) {
            copy.parent = root.address;
            copy.mountpoint = 100;
        }
        // Somewhere else on the slave.
        let mut elsewhere = mount(16);
        (elsewhere.parent, elsewhere.mountpoint) = (3, 101);
        let all: Vec<_> = roots.iter().chain(&copies).chain([&elsewhere]).collect();
        let mut propagation = PropagationTree::new(all.into_iter());
        let mut slots = propagation.slots(&copies[0]);
        slots.sort_unstable();
        assert_eq!(slots, [12, 13, 14]);
        // The umount of a slave does not check its master.
        assert_eq!(propagation.slots(&copies[2]), [14]);
        assert!(propagation.slots(&roots[0]).is_empty());
        assert_eq!(propagation.children(&roots[2]), (2, 0));
    }
}
