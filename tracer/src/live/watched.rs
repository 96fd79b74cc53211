//! Which mounts are watched: targets by path pattern, and their slots. The kernel side filters by this table.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use tracer_common::{Watched, watched_superblock};

use super::{mounts::MountsView, target::mount_key};
use crate::{identity::WatchPatterns, kernel::Kernel, probe::WatchedMaps, stream::MountKey};

/// How long a mount may be under way to its place.
const PLACED_WITHIN: Duration = Duration::from_secs(2);

/// Entries of the kernel's table (`WATCHED`), so many of which are for mounts whose users block nothing.
const WATCHED_MAX: usize = 16_384 - IGNORED_MAX;
const IGNORED_MAX: usize = 4096;
/// From so many on mounts of others than the host's superuser are no targets.
const OTHERS_BEYOND: usize = 4096;

/// The table of watched mounts, in user space and in the kernel.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    entries: HashMap<MountKey, u64>,
    /// Other mounts of the same file systems: their users block nothing.
    ignored: HashSet<MountKey>,
    /// The same, but found in no namespace, and since when: one that is just being copied may block, once it is there.
    unplaced: HashMap<MountKey, Instant>,
    superblocks: HashSet<u64>,
    /// Those that the kernel side watches since they were mounted, and that no watched mount was seen of, since when.
    new_superblocks: HashMap<u64, Instant>,
    next: u64,
    /// Mounts that were there when ebusy started; with a command to watch, what appears later is its doing.
    baseline: Option<HashSet<MountKey>>,
    /// Entries that the kernel's table had no room for.
    pub(super) full: u64,
    /// Mounts that there was no room to watch: the most at one look.
    pub(super) crowded: u64,
    /// Targets found, without slots.
    pub(super) targets: usize,
}

impl WatchTable {
    /// From now on mounts that appear are watched whatever their path.
    pub(super) fn watch_new_mounts(&mut self, view: &MountsView) {
        self.baseline = Some(view.all().map(|(_, mounted)| mount_key(&mounted.mount)).collect());
    }

    /// Whether a mount of this `mnt_id` is a target or one of its slots.
    pub(super) fn has(&self, mount_id: u32) -> bool {
        self.entries.keys().any(|key| key.id == mount_id)
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
        let mut crowded = 0;
        let mut slots_of_others = Vec::new();
        // What the host's superuser mounted has all the room that it needs: it is looked at first, with its slots.
        let (of_host, of_others): (Vec<_>, Vec<_>) = view.all().partition(|(_, mounted)| mounted.by_root);
        for (_, mounted) in of_host.into_iter().chain(of_others) {
            let key = mount_key(&mounted.mount);
            let new = self
                .baseline
                .as_ref()
                .is_some_and(|baseline| !baseline.contains(&key));
            // A slot of a target before is a copy of it, whatever its path.
            if !(new || patterns.covers(&mounted.path)) || wanted.contains(&key) {
                continue;
            }
            if !mounted.by_root && wanted.len() >= OTHERS_BEYOND {
                crowded += 1;
                continue;
            }
            wanted.insert(key);
            self.targets += 1;
            let slots = kernel.slots(&mounted.mount).mounts;
            superblocks.extend(slots.iter().map(|slot| slot.superblock));
            superblocks.insert(mounted.mount.superblock);
            // Users make copies of it for their namespaces, any number.
            let (of_host, of_others): (Vec<_>, Vec<_>) = slots
                .iter()
                .partition(|slot| view.mount(slot.address).is_some_and(|(_, slot)| slot.by_root));
            wanted.extend(of_host.into_iter().map(mount_key));
            slots_of_others.extend(of_others.into_iter().map(mount_key));
        }
        for slot in slots_of_others {
            if wanted.len() < WATCHED_MAX {
                wanted.insert(slot);
            } else {
                crowded += u64::from(!wanted.contains(&slot));
            }
        }
        self.crowded = self.crowded.max(crowded);
        let mut others: HashSet<MountKey> = HashSet::new();
        for superblock in &superblocks {
            let mounts = kernel.mounts_of_superblock(*superblock).items;
            let mounts = kernel.mounts(&mounts);
            others.extend(mounts.iter().flatten().map(mount_key));
        }
        others.retain(|key| !wanted.contains(key));
        let placed = view.all().map(|(_, mounted)| mount_key(&mounted.mount)).collect();
        let (mut ignored, unplaced) = known_harmless(others, &placed, &self.unplaced, Instant::now());
        if ignored.len() > IGNORED_MAX {
            // The opens through the others are recorded for nothing. Those that are known stay, so that nothing is put in
            // and taken out at each look.
            let (known, new): (Vec<_>, Vec<_>) =
                ignored.into_iter().partition(|key| self.ignored.contains(key));
            ignored = known.into_iter().chain(new).take(IGNORED_MAX).collect();
        }

        let gone = self
            .entries
            .keys()
            .chain(&self.ignored)
            .filter(|key| !wanted.contains(key) && !ignored.contains(key));
        for key in gone {
            forget(&mut maps.mounts, key.address);
        }
        self.update_superblocks(superblocks, &mut maps.superblocks);
        self.entries.retain(|key, _| wanted.contains(key));
        for key in wanted {
            // The kernel's side forgets a mount that is freed; its address and id may have come again since.
            let there = |maps: &WatchedMaps| {
                let entry = maps.mounts.get(&key.address, 0);
                entry.is_ok_and(|entry| entry.mount_id == key.id && entry.watch != 0)
            };
            if self.entries.contains_key(&key) && there(maps) {
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
        self.ignored = ignored;
        forget_new(view, maps);
        self.unplaced = unplaced;
    }

    /// A superblock that the kernel side found is left for a while: this look may have begun before it was mounted.
    fn update_superblocks(&mut self, wanted: HashSet<u64>, map: &mut BpfHashMap<MapData, u64, u8>) {
        let now = Instant::now();
        let new: HashSet<u64> = map
            .iter()
            .flatten()
            .filter(|(_, why)| *why == watched_superblock::NEW)
            .map(|(superblock, _)| superblock)
            .collect();
        for superblock in self.superblocks.difference(&wanted) {
            // At its address there may be a new one.
            if !new.contains(superblock) {
                forget(map, *superblock);
            }
        }
        for superblock in &wanted {
            if new.contains(superblock) || !self.superblocks.contains(superblock) {
                self.full += u64::from(!put(map, *superblock, watched_superblock::BY_PATTERN));
            }
        }
        self.new_superblocks = new
            .difference(&wanted)
            .map(|superblock| {
                let since = self.new_superblocks.get(superblock);
                (*superblock, since.copied().unwrap_or(now))
            })
            .collect();
        self.new_superblocks.retain(|superblock, since| {
            let young = now - *since <= PLACED_WITHIN;
            if !young {
                forget(map, *superblock);
            }
            young
        });
        self.superblocks = wanted;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Which of the mounts that are neither targets nor slots are so for good, and which are too new to say: a copy for a
/// new namespace is on the list of its superblock before it is in a slot, and an open through it must not be lost. The
/// look at the namespaces was before that at the slots, so what is placed is in its slot if it has one; what is in no
/// namespace is left alone for a while.
fn known_harmless(
    others: HashSet<MountKey>,
    placed: &HashSet<MountKey>,
    unplaced_before: &HashMap<MountKey, Instant>,
    now: Instant,
) -> (HashSet<MountKey>, HashMap<MountKey, Instant>) {
    let unplaced: HashMap<MountKey, Instant> = others
        .difference(placed)
        .map(|key| (*key, unplaced_before.get(key).copied().unwrap_or(now)))
        .collect();
    let ignored = others
        .into_iter()
        .filter(|key| unplaced.get(key).is_none_or(|since| now - *since > PLACED_WITHIN))
        .collect();
    (ignored, unplaced)
}

/// What was new is known now. A mount that has no place yet stays new.
fn forget_new(view: &MountsView, maps: &mut WatchedMaps) {
    let new: Vec<(u64, u32)> = maps.new.iter().flatten().collect();
    if new.is_empty() {
        return;
    }
    let seen: HashSet<(u64, u32)> = view
        .all()
        .map(|(_, mounted)| (mounted.mount.address, mounted.mount.id))
        .collect();
    for (address, _) in new.iter().filter(|new| seen.contains(new)) {
        forget(&mut maps.new, *address);
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

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        time::Instant,
    };

    use super::{PLACED_WITHIN, known_harmless};
    use crate::stream::MountKey;

    fn keys(ids: &[u32]) -> HashSet<MountKey> {
        let key = |id: &u32| MountKey {
            address: u64::from(*id),
            id: *id,
            unique: None,
        };
        ids.iter().map(key).collect()
    }

    #[test]
    fn a_copy_that_is_in_no_namespace_yet_is_not_ignored() {
        let placed = keys(&[1, 2, 3]);
        let now = Instant::now();
        let (ignored, unplaced) = known_harmless(keys(&[3, 9]), &placed, &HashMap::new(), now);
        assert_eq!(ignored, keys(&[3]));
        assert_eq!(unplaced, keys(&[9]).into_iter().map(|key| (key, now)).collect());
        let (ignored, again) = known_harmless(keys(&[3, 9]), &placed, &unplaced, now + PLACED_WITHIN / 2);
        assert_eq!((ignored, &again), (keys(&[3]), &unplaced));
        // It never came to be in one: the clone that an overlay keeps of a layer.
        let (ignored, _) = known_harmless(keys(&[3, 9]), &placed, &again, now + PLACED_WITHIN * 2);
        assert_eq!(ignored, keys(&[3, 9]));
    }
}
