//! Which mounts are watched: targets by path pattern, and their slots. The kernel side filters by this table.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use tracer_common::Watched;

use super::{mounts::MountsView, target::mount_key};
use crate::{identity::WatchPatterns, kernel::Kernel, probe::WatchedMaps, stream::MountKey};

/// The table of watched mounts, in user space and in the kernel.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    entries: HashMap<MountKey, u64>,
    /// Other mounts of the same file systems: their users block nothing.
    ignored: HashSet<MountKey>,
    superblocks: HashSet<u64>,
    next: u64,
    /// Mounts that were there when ebusy started; with a command to watch, what appears later is its doing.
    baseline: Option<HashSet<MountKey>>,
    /// Entries that the kernel's table had no room for.
    pub(super) full: u64,
    /// Targets found, without slots.
    pub(super) targets: usize,
}

impl WatchTable {
    /// From now on mounts that appear are watched whatever their path.
    pub(super) fn watch_new_mounts(&mut self, view: &MountsView) {
        self.baseline = Some(view.all().map(|(_, mounted)| mount_key(&mounted.mount)).collect());
    }

    /// Brings the table up to a new look at the mounts.
    pub(super) fn update(
        &mut self,
        kernel: Kernel<'_>,
        view: &MountsView,
        patterns: &WatchPatterns,
        maps: &mut WatchedMaps,
    ) {
        let mut wanted: HashSet<MountKey> = HashSet::new();
        let mut superblocks: HashSet<u64> = HashSet::new();
        self.targets = 0;
        for (_, mounted) in view.all() {
            let key = mount_key(&mounted.mount);
            let new = self
                .baseline
                .as_ref()
                .is_some_and(|baseline| !baseline.contains(&key));
            // A slot of a target before is a copy of it, whatever its path.
            if !(new || patterns.covers(&mounted.path)) || !wanted.insert(key) {
                continue;
            }
            self.targets += 1;
            let slots = kernel.slots(&mounted.mount).mounts;
            superblocks.extend(slots.iter().map(|slot| slot.superblock));
            superblocks.insert(mounted.mount.superblock);
            wanted.extend(slots.iter().map(mount_key));
        }
        let mut ignored: HashSet<MountKey> = HashSet::new();
        for superblock in &superblocks {
            let (mounts, _) = kernel.mounts_of_superblock(*superblock);
            ignored.extend(
                kernel
                    .mounts(&mounts)
                    .iter()
                    .flatten()
                    .map(mount_key)
                    .filter(|key| !wanted.contains(key)),
            );
        }

        let gone = self
            .entries
            .keys()
            .chain(&self.ignored)
            .filter(|key| !wanted.contains(key) && !ignored.contains(key));
        for key in gone {
            forget(&mut maps.mounts, key.address);
        }
        for superblock in self.superblocks.difference(&superblocks) {
            forget(&mut maps.superblocks, *superblock);
        }
        for superblock in superblocks.difference(&self.superblocks) {
            self.full += u64::from(!put(&mut maps.superblocks, *superblock, 1));
        }
        self.entries.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.entries.contains_key(&key) {
                continue;
            }
            self.next += 1;
            let value = Watched {
                watch: self.next,
                mount_id: key.id,
                reserved: 0,
            };
            if put(&mut maps.mounts, key.address, value) {
                self.entries.insert(key, self.next);
            } else {
                self.full += 1;
            }
        }
        for key in ignored.difference(&self.ignored) {
            // Without room here their opens are recorded for nothing, and lost is nothing.
            put(
                &mut maps.mounts,
                key.address,
                Watched {
                    watch: 0,
                    mount_id: key.id,
                    reserved: 0,
                },
            );
        }
        self.superblocks = superblocks;
        self.ignored = ignored;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn put<V: Pod + Debug>(map: &mut BpfHashMap<MapData, u64, V>, address: u64, value: V) -> bool {
    let result = map.insert(address, value, 0);
    if let Err(error) = &result {
        log::debug!("watching {address:#x}: {error}");
    }
    result.is_ok()
}

fn forget<V: Pod>(map: &mut BpfHashMap<MapData, u64, V>, address: u64) {
    if let Err(error) = map.remove(&address) {
        log::debug!("no longer watching {address:#x}: {error}");
    }
}
