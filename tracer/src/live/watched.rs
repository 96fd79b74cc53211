//! Which mounts are watched: targets by path pattern, and their slots. The kernel side filters by this table.

use std::collections::{HashMap, HashSet};

use aya::maps::{HashMap as BpfHashMap, MapData};
use tracer_common::Watched;

use super::{mounts::MountsView, target::mount_key};
use crate::{identity::WatchPatterns, kernel::Kernel, stream::MountKey};

/// The table of watched mounts, in user space and in the kernel.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    entries: HashMap<MountKey, u64>,
    next: u64,
    /// Mounts that were there when ebusy started; with a command to watch, what appears later is its doing.
    baseline: Option<HashSet<MountKey>>,
    /// Watched mounts that the table had no room for.
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
        map: &mut BpfHashMap<MapData, u64, Watched>,
    ) {
        let mut wanted: HashSet<MountKey> = HashSet::new();
        self.targets = 0;
        for (_, mounted) in view.all() {
            let key = mount_key(&mounted.mount);
            let new = self.baseline.as_ref().is_some_and(|baseline| !baseline.contains(&key));
            // A slot of a target before is a copy of it, whatever its path.
            if !(new || patterns.covers(&mounted.path)) || !wanted.insert(key) {
                continue;
            }
            self.targets += 1;
            wanted.extend(kernel.slots(&mounted.mount).mounts.iter().map(mount_key));
        }
        self.entries.retain(|key, _| {
            let keep = wanted.contains(key);
            if !keep && let Err(error) = map.remove(&key.address) {
                log::debug!("no longer watching {key:?}: {error}");
            }
            keep
        });
        for key in wanted {
            if self.entries.contains_key(&key) {
                continue;
            }
            self.next += 1;
            let value = Watched { watch: self.next, mount_id: key.id, reserved: 0 };
            match map.insert(key.address, value, 0) {
                Ok(()) => {
                    self.entries.insert(key, self.next);
                }
                Err(error) => {
                    self.full += 1;
                    log::debug!("watching {key:?}: {error}");
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
