//! Mounts that were in the tables at one look and are in none at the next: their umount may be told only later, and what it
//! took away may live on.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{mounts::MountsView, target::describe};
use crate::{
    identity::Containers,
    kernel::{Kernel, Mount, Place},
    model::Target,
};

/// Mounts that are kept until their umount is told, at the most.
const MAX: usize = 256;
/// How long they are kept.
const KEPT: Duration = Duration::from_secs(5);

/// Those that left lately, in the order of the tables.
#[derive(Debug, Default)]
pub(super) struct LeftMounts(Vec<Left>);

/// A mount that was in a mount table at one look and is detached at the next one.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) mount: Mount,
    pub(super) path: Vec<u8>,
    pub(super) target: Target,
    noticed: Instant,
}

/// Whether these are mounts in no table still, by what is known of the device of each. Addresses and ids are used again:
/// all that names a mount has to be the same, and its file system has to have it. Where the list of that changed under
/// the walk it is taken to have it, as long as it is that file system: both may be freed, and something else be there.
pub(super) fn live_on(kernel: Kernel<'_>, mounts: &[(&Mount, Option<&str>)]) -> Vec<bool> {
    let addresses: Vec<u64> = mounts.iter().map(|(mount, _)| mount.address).collect();
    let mut lists: HashMap<u64, (HashSet<u64>, bool)> = HashMap::new();
    mounts
        .iter()
        .zip(kernel.mounts(&addresses))
        .map(|((mount, device), now)| {
            let same = now.is_some_and(|now| now.is_same(mount) && kernel.place(&now) == Place::Detached);
            same && {
                let (of, whole) = lists.entry(mount.superblock).or_insert_with(|| {
                    let list = kernel.mounts_of_superblock(mount.superblock);
                    (list.items.into_iter().collect(), list.complete)
                });
                let is_there = || {
                    let superblock = kernel.superblock(mount.superblock);
                    superblock.is_some_and(|now| device.is_none_or(|device| now.device == device))
                };
                of.contains(&mount.address) || (!*whole && is_there())
            }
        })
        .collect()
}

/// What a mount has in common with its copies: what is mounted, and on which directory.
pub(super) fn place(mount: &Mount) -> (u64, u64, u64) {
    (mount.mountpoint, mount.superblock, mount.root)
}

impl LeftMounts {
    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Left> {
        self.0.iter()
    }

    /// The mount tables were read anew: what has left them may be told only later by its umount. That names one mount,
    /// which may be freed, and leads to those below it and to those in their places elsewhere, which may live on.
    pub(super) fn note(
        &mut self,
        kernel: Kernel<'_>,
        containers: &Containers,
        before: &MountsView,
        view: &MountsView,
    ) {
        let now = Instant::now();
        let left = &mut self.0;
        left.retain(|left| now - left.noticed < KEPT);
        let there: HashSet<u64> = view.all().map(|(_, mounted)| mounted.mount.address).collect();
        let gone: Vec<_> = before
            .all()
            .filter(|(_, mounted)| !there.contains(&mounted.mount.address))
            .collect();
        let mounts: Vec<_> = gone.iter().map(|(_, mounted)| (&mounted.mount, None)).collect();
        let alive = mounts.iter().zip(live_on(kernel, &mounts));
        let alive = alive.filter_map(|((mount, _), alive)| alive.then_some(*mount));
        // Others may go while the tables are read.
        let others = view.all().map(|(_, mounted)| &mounted.mount);
        let places: HashSet<_> = alive.chain(others).map(place).collect();
        // Parents come before their children.
        let mut parents = HashSet::new();
        let mut kept: Vec<_> = gone
            .into_iter()
            .rev()
            .filter(|(_, mounted)| {
                let mount = &mounted.mount;
                let keep = places.contains(&place(mount)) || parents.contains(&mount.address);
                if keep {
                    parents.insert(mount.parent);
                }
                keep
            })
            .collect();
        kept.reverse();
        kept.truncate(MAX.saturating_sub(left.len()));
        for (namespace, mounted) in kept {
            left.push(Left {
                mount: mounted.mount.clone(),
                path: mounted.path.clone(),
                target: describe(kernel, containers, before, namespace, mounted),
                noticed: now,
            });
        }
    }
}
