//! Containers that appear: what their runtimes say of them is read then, and never again.
//!
//! To read a file is to keep its mount busy for that moment, so nothing is read because of an umount. What is read of a
//! container is read while its mount is there: below it, and beside it, nobody can unmount anything then. One that has
//! just been mounted may be gone in a few milliseconds (an image is unpacked, a start fails), so it has to stay for a
//! while first. Docker writes the bundle of a container after it mounted its root file system: hence the second time.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{host::own_namespace, mounts::MountsView, target::mount_key};
use crate::{identity::mount_claim, stream::MountKey};

/// How old a mount has to be.
const AGES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// Containers read about at a time: the rest waits for the next turn.
const AT_ONCE: usize = 16;

/// More mounts than that do not wait; a node has some hundred.
const WAITING_MAX: usize = 4096;

/// A mount of a container that is not old enough.
#[derive(Debug)]
struct Waiting {
    path: Vec<u8>,
    since: Instant,
    /// How often it was read about.
    read: usize,
}

/// Mounts of containers in ebusy's own namespace.
#[derive(Debug, Default)]
pub(super) struct Appeared {
    known: HashSet<MountKey>,
    waiting: HashMap<MountKey, Waiting>,
    /// Those that there was no room for to wait.
    pub(super) skipped: u64,
}

impl Appeared {
    /// Those that were there from the beginning are known already.
    pub(super) fn at_start(view: &MountsView) -> Self {
        Self {
            known: of_containers(view).map(|(key, _)| key).collect(),
            ..Self::default()
        }
    }

    /// Takes a new look at the mounts.
    pub(super) fn update(&mut self, view: &MountsView) {
        let now: HashMap<MountKey, &[u8]> = of_containers(view).collect();
        self.waiting.retain(|key, _| now.contains_key(key));
        for (key, path) in &now {
            if self.known.contains(key) {
                continue;
            }
            if self.waiting.len() == WAITING_MAX {
                self.skipped += 1;
            } else {
                let path = path.to_vec();
                let since = Instant::now();
                self.waiting.insert(*key, Waiting { path, since, read: 0 });
            }
        }
        self.known = now.into_keys().collect();
    }

    /// Those that are old enough now, each at most twice.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(MountKey, Vec<u8>)> {
        let is_due = |waiting: &Waiting| {
            AGES.get(waiting.read)
                .is_some_and(|age| now - waiting.since >= *age)
        };
        let due = self.waiting.iter_mut().filter(|(_, waiting)| is_due(waiting));
        let due = due.take(AT_ONCE).map(|(key, waiting)| {
            waiting.read += 1;
            (*key, waiting.path.clone())
        });
        let due = due.collect();
        self.waiting.retain(|_, waiting| waiting.read < AGES.len());
        due
    }
}

/// The mounts that were made for containers, by their paths.
fn of_containers(view: &MountsView) -> impl Iterator<Item = (MountKey, &[u8])> {
    let own = own_namespace().and_then(|number| view.namespace(number));
    let mounts = own.into_iter().flat_map(|namespace| &namespace.mounts);
    mounts
        .filter(|mounted| mounted.by_root)
        .filter(|mounted| mount_claim(&mounted.path).is_some_and(|claim| claim.owner.is_some()))
        .map(|mounted| (mount_key(&mounted.mount), mounted.path.as_slice()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AT_ONCE, Appeared, Waiting};
    use crate::stream::MountKey;

    fn key(id: u32) -> MountKey {
        MountKey {
            address: u64::from(id),
            id,
            unique: None,
        }
    }

    #[test]
    fn what_stays_is_read_about_twice_and_not_at_once() {
        let start = Instant::now();
        let mut appeared = Appeared::default();
        for id in 0..20 {
            let path = b"/run/x".to_vec();
            appeared.waiting.insert(
                key(id),
                Waiting {
                    path,
                    since: start,
                    read: 0,
                },
            );
        }
        let mut due = |millis| appeared.due(start + Duration::from_millis(millis)).len();
        assert_eq!(due(0), 0);
        assert_eq!(due(199), 0);
        assert_eq!((due(200), due(201), due(202)), (AT_ONCE, 20 - AT_ONCE, 0));
        assert_eq!((due(2000), due(2001), due(2002)), (AT_ONCE, 20 - AT_ONCE, 0));
        assert!(appeared.waiting.is_empty());
    }
}
