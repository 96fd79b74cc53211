//! Where an umount propagates: the peers and slaves of the target's *parent*, in any namespace, and what is
//! mounted there in the target's place (fs/pnode.c `propagate_mount_busy`; kernel fact 2).

use std::collections::{HashMap, HashSet, VecDeque};

use super::{context::Kernel, listing::Listing, mount::Mount};

/// Mounts of one propagation tree at the most.
const PROPAGATION_MAX: usize = 100_000;

/// What sits in the target's place elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    /// In the order in which the kernel looks at them, as far as that can be told.
    pub mounts: Vec<Mount>,
    /// Whether all lists were whole.
    pub complete: bool,
}

impl Kernel<'_> {
    /// All mounts that receive what happens on `parent`, without itself, nearest first.
    #[must_use]
    pub fn propagation_set(&self, parent: &Mount) -> Listing<Vec<Mount>> {
        let t = &self.layout.table;
        let (share, slave, slave_list) = (
            u64::from(t.mount_share),
            u64::from(t.mount_slave),
            u64::from(t.mount_slave_list),
        );
        let mut seen = HashSet::from([parent.address]);
        let mut whole = true;
        let mut found = Vec::new();
        let mut queue = VecDeque::from([parent.clone()]);
        while let Some(mount) = queue.pop_front() {
            let mut next = Vec::new();
            if mount.group != 0 {
                let ring = self
                    .memory
                    .ring(mount.address.wrapping_add(share), PROPAGATION_MAX);
                whole &= ring.complete;
                next.extend(ring.nodes.iter().map(|node| node.wrapping_sub(share)));
            }
            let head = mount.address.wrapping_add(slave_list);
            let slaves = match self.memory.word(head, 0) {
                // An hlist ends at null, a list at its head.
                Some(first) => {
                    let stop = if self.layout.slaves_are_hlist { 0 } else { head };
                    self.memory.chase(first, 0, stop, PROPAGATION_MAX)
                }
                None => super::memory::Chain::default(),
            };
            whole &= slaves.complete;
            next.extend(slaves.nodes.iter().map(|node| node.wrapping_sub(slave)));
            next.retain(|address| seen.insert(*address));
            if seen.len() > PROPAGATION_MAX {
                return Listing::new(found, false);
            }
            for mount in self.mounts(&next) {
                match mount {
                    Some(mount) => {
                        queue.push_back(mount.clone());
                        found.push(mount);
                    }
                    None => whole = false,
                }
            }
        }
        Listing::new(found, whole)
    }

    /// The slots of a target: mounts on the same dentry whose parent is in the propagation set of its parent.
    #[must_use]
    pub fn slots(&self, target: &Mount) -> Slots {
        if target.parent == target.address {
            return Slots {
                mounts: Vec::new(),
                complete: true,
            };
        }
        let Some(parent) = self.mount(target.parent) else {
            return Slots::default();
        };
        let Listing {
            items: receivers,
            complete: whole,
        } = self.propagation_set(&parent);
        let t = &self.layout.table;
        let link = u64::from(t.mount_mp_list);
        let same_place = match self.memory.word(target.mountpoint_object, t.mountpoint_list) {
            Some(first) => self.memory.chase(first, 0, 0, PROPAGATION_MAX),
            None => super::memory::Chain::default(),
        };
        let addresses: Vec<u64> = same_place
            .nodes
            .iter()
            .map(|node| node.wrapping_sub(link))
            .collect();
        let mut mounts: Vec<Mount> = self.mounts(&addresses).into_iter().flatten().collect();
        let places: HashMap<u64, usize> = (receivers.iter().enumerate())
            .map(|(place, parent)| (parent.address, place))
            .collect();
        let order = |mount: &Mount| places.get(&mount.parent).copied();
        mounts.retain(|mount| {
            mount.address != target.address && mount.mountpoint == target.mountpoint && order(mount).is_some()
        });
        mounts.sort_by_key(order);
        Slots {
            mounts,
            complete: whole && same_place.complete,
        }
    }
}
