//! Mounts that an umount with `MNT_DETACH` took away: most are freed at once. What keeps the others is looked for, until
//! their last reference goes.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Session, look::LEDGER_MAX};
use crate::{
    identity::boot_nanos,
    incident::{Skipped, has_room},
    kernel::{Kernel, Mount, Place, survey},
    live::{
        ledger::Ledger,
        mounts::MountsView,
        own_namespace,
        target::{absolute, at_path, describe, mount_key, unknown},
    },
    model::{EvidenceSource, Holder, Process, Target, Through},
    stream::{Detached, Freed, Object, RawUmount, Record},
    watchdog::{self, Step},
};

/// The kernel frees what nobody uses on the way back from umount2, and its data a little later: what is there after
/// that lives on.
const GRACE: Duration = Duration::from_millis(200);
/// It is looked no more often than that.
const POLL: Duration = Duration::from_secs(1);
/// A look at all tasks is repeated after so many times what it took.
const REST: u32 = 20;
/// What is lost of those that are too many.
pub(super) const SKIPPED: &str = "detached mounts: too many to follow";
/// Mounts that are followed at the most.
const FOLLOWED_MAX: usize = 256;
/// Mounts that wait for their first look at the most.
const FRESH_MAX: usize = 4096;
/// Mounts that were gone at the last look at the mount tables, and are kept until their umount is told, at the most.
const LEFT_MAX: usize = 256;
/// How long they are kept.
const LEFT_KEPT: Duration = Duration::from_secs(5);
/// Holders of one look that are identified from /proc at the most.
const IDENTIFIED_MAX: usize = 256;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct DetachedMounts {
    left: Vec<Left>,
    fresh: Vec<Fresh>,
    followed: Vec<Followed>,
    looked: Option<Instant>,
    surveyed: Option<Instant>,
    /// How long the last look at all tasks took.
    took: Duration,
    /// Mounts that live on and were too many to follow, by source.
    pub(super) skipped: Skipped,
}

impl DetachedMounts {
    /// Whether none that was detached by then waits for its first look.
    pub(super) fn has_caught_up(&self, asked: u64) -> bool {
        let unseen = self.followed.iter().filter(|followed| followed.kept.is_none());
        let mut waiting = self.fresh.iter().chain(unseen.map(|followed| &followed.of));
        waiting.all(|fresh| fresh.umount.returned > asked)
    }
}

/// A mount that was in a mount table at one look and is detached at the next one.
#[derive(Debug)]
struct Left {
    mount: Mount,
    path: Vec<u8>,
    target: Target,
    noticed: Instant,
}

/// The umount that detached.
#[derive(Debug)]
struct Umount {
    returned: u64,
    source: u64,
    caller: Process,
}

#[derive(Debug)]
struct Fresh {
    mount: Mount,
    target: Target,
    umount: Rc<Umount>,
    since: Instant,
}

impl Fresh {
    fn named(&self) -> (&Mount, Option<&str>) {
        (&self.mount, self.target.device.as_deref())
    }
}

#[derive(Debug)]
struct Followed {
    cause: u64,
    of: Fresh,
    /// What was found to keep it; `None` before that was looked for.
    kept: Option<Kept>,
}

#[derive(Debug, PartialEq)]
struct Kept {
    counted: Option<u64>,
    holders: Vec<Holder>,
}

/// Whether these are mounts in no table still, by what is known of the device of each. Addresses and ids are used again:
/// all that names a mount has to be the same, and its file system has to have it. Where the list of that changed under
/// the walk it is taken to have it, as long as it is that file system: both may be freed, and something else be there.
fn live_on(kernel: Kernel<'_>, mounts: &[(&Mount, Option<&str>)]) -> Vec<bool> {
    let addresses: Vec<u64> = mounts.iter().map(|(mount, _)| mount.address).collect();
    let mut lists: HashMap<u64, (HashSet<u64>, bool)> = HashMap::new();
    mounts
        .iter()
        .zip(kernel.mounts(&addresses))
        .map(|((mount, device), now)| {
            let same = now.is_some_and(|now| now.is_same(mount) && kernel.place(&now) == Place::Detached);
            same && {
                let (of, whole) = lists.entry(mount.superblock).or_insert_with(|| {
                    let (of, whole) = kernel.mounts_of_superblock(mount.superblock);
                    (of.into_iter().collect(), whole)
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
fn place(mount: &Mount) -> (u64, u64, u64) {
    (mount.mountpoint, mount.superblock, mount.root)
}

/// References beyond those of children.
fn counts(kernel: Kernel<'_>, mounts: &[&Mount]) -> Vec<Option<u64>> {
    let counts = kernel.counts(mounts);
    let extra = |mount: &Mount, count: Option<i32>| {
        let children = if kernel.layout.children_counted {
            kernel.children(mount).0.len() as u64
        } else {
            0
        };
        Some(u64::try_from(count?).unwrap_or(0).saturating_sub(children))
    };
    mounts
        .iter()
        .zip(counts)
        .map(|(mount, count)| extra(mount, count))
        .collect()
}

impl Session {
    /// The mount tables were read anew: what has left them may be told only later by its umount. That names one mount,
    /// which may be freed, and leads to those below it and to those in their places elsewhere, which may live on.
    pub(super) fn note_left(&mut self, before: &MountsView) {
        let now = Instant::now();
        let left = &mut self.detached.left;
        left.retain(|left| now - left.noticed < LEFT_KEPT);
        let there: HashSet<u64> = self
            .view
            .all()
            .map(|(_, mounted)| mounted.mount.address)
            .collect();
        let gone: Vec<_> = before
            .all()
            .filter(|(_, mounted)| !there.contains(&mounted.mount.address))
            .collect();
        let kernel = self.host.kernel(&self.probes.reader);
        let mounts: Vec<_> = gone.iter().map(|(_, mounted)| (&mounted.mount, None)).collect();
        let alive = mounts.iter().zip(live_on(kernel, &mounts));
        let alive = alive.filter_map(|((mount, _), alive)| alive.then_some(*mount));
        // Others may go while the tables are read.
        let others = self.view.all().map(|(_, mounted)| &mounted.mount);
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
        kept.truncate(LEFT_MAX.saturating_sub(left.len()));
        for (namespace, mounted) in kept {
            left.push(Left {
                mount: mounted.mount.clone(),
                path: mounted.path.clone(),
                target: describe(kernel, self.identities.containers(), before, namespace, mounted),
                noticed: now,
            });
        }
    }

    /// An umount with `MNT_DETACH` succeeded: what it took with it is looked at a little later, as far as it is still
    /// there.
    pub(super) fn detached(&mut self, raw: &RawUmount) {
        let kernel = self.host.kernel(&self.probes.reader);
        let path = absolute(kernel, raw);
        let place = raw.caller.mount_namespace.zip(path.as_deref());
        let left = self.detached.left.iter().rev().find(|left| match raw.target {
            Some((address, _)) => left.mount.address == address,
            None => place.is_some_and(|(namespace, path)| {
                left.target.mount_namespace == Some(namespace) && left.path == path
            }),
        });
        let seen = || {
            if let Some((address, _)) = raw.target {
                return Some(self.view.mount(address)?.1);
            }
            let (number, path) = place?;
            let own = own_namespace() == Some(number);
            let last = raw.flags & super::UMOUNT_NOFOLLOW == 0;
            at_path(self.view.namespace(number)?, path, own, last)
        };
        // Another one may have been in that place, or at that address, before: what is alive and detached is asked later.
        let known = left.map(|left| &left.mount).into_iter();
        let known = known.chain(seen().map(|mounted| &mounted.mount));
        // Where the tables were not read since it was mounted, the kernel's own record says which it is.
        let unseen = || {
            let mount = kernel.mount(raw.target?.0)?;
            let number = raw.caller.mount_namespace;
            let target = Target {
                mount_id: Some(mount.id),
                ..unknown(path.as_deref().or(raw.path.as_deref()), number)
            };
            Some((mount, target))
        };
        let mut found: Vec<(Mount, Target)> = known.flat_map(|top| self.taken_with(kernel, top)).collect();
        found.extend(unseen());
        let mut seen = HashSet::new();
        found.retain(|(mount, _)| seen.insert((mount.address, mount.id)));
        let mounts: Vec<_> = found
            .iter()
            .map(|(mount, target)| (mount, target.device.as_deref()))
            .collect();
        let alive = live_on(kernel, &mounts);
        let is_new = |mount: &Mount| {
            let followed = self.detached.followed.iter().map(|followed| &followed.of);
            !followed
                .chain(&self.detached.fresh)
                .any(|of| of.mount.is_same(mount))
        };
        let found: Vec<(Mount, Target)> = found
            .into_iter()
            .zip(alive)
            .filter(|((mount, _), alive)| *alive && is_new(mount))
            .map(|(found, _)| found)
            .collect();
        self.view_stale = true;
        if found.is_empty() {
            return;
        }
        let umount = Rc::new(Umount {
            returned: raw.returned,
            source: raw.source,
            caller: self.identities.complete_caller(
                self.host.kernel(&self.probes.reader),
                &raw.caller,
                raw.start,
            ),
        });
        let since = Instant::now();
        for (mount, target) in found {
            let there = self.detached.fresh.iter().map(|fresh| fresh.umount.source);
            if has_room(there, raw.source, FRESH_MAX) {
                self.detached.fresh.push(Fresh {
                    mount,
                    target,
                    umount: Rc::clone(&umount),
                    since,
                });
            } else {
                *self.detached.skipped.entry(raw.source).or_default() += 1;
            }
        }
    }

    /// A mount with all below it, and the copies of those in the same places elsewhere, which propagation takes away as
    /// well: as they were before.
    fn taken_with(&self, kernel: Kernel<'_>, top: &Mount) -> Vec<(Mount, Target)> {
        let all = || {
            let left = self.detached.left.iter().map(|left| &left.mount);
            left.chain(self.view.all().map(|(_, mounted)| &mounted.mount))
        };
        let mut below = HashSet::from([top.address]);
        // Parents come before their children.
        for mount in all() {
            if below.contains(&mount.parent) {
                below.insert(mount.address);
            }
        }
        let places: HashSet<_> = all()
            .filter(|mount| below.contains(&mount.address))
            .map(place)
            .collect();
        let mut found: Vec<(Mount, Target)> = self
            .detached
            .left
            .iter()
            .filter(|left| places.contains(&place(&left.mount)))
            .map(|left| (left.mount.clone(), left.target.clone()))
            .collect();
        let containers = self.identities.containers();
        for (namespace, mounted) in self.view.all() {
            if places.contains(&place(&mounted.mount)) {
                let target = describe(kernel, containers, &self.view, namespace, mounted);
                found.push((mounted.mount.clone(), target));
            }
        }
        found
    }

    /// Looks whether detached mounts are there still, and what keeps them.
    pub(super) fn follow_detached(&mut self, end: bool) {
        let _step = watchdog::within(Step::Detached, &[]);
        let now = Instant::now();
        let is_due = |last: Option<Instant>, rest| last.is_none_or(|last| now - last >= rest);
        let mut detached = std::mem::take(&mut self.detached);
        let idle = detached.fresh.is_empty() && detached.followed.is_empty();
        if !idle && (end || is_due(detached.looked, POLL)) {
            detached.looked = Some(now);
            self.admit(&mut detached, now, end);
            self.end_freed(&mut detached.followed);
            if is_due(detached.surveyed, POLL.max(detached.took * REST)) {
                self.look_what_keeps(&mut detached);
            }
        }
        self.detached = detached;
    }

    /// Those that are there after a while are followed.
    fn admit(&mut self, detached: &mut DetachedMounts, now: Instant, end: bool) {
        let (due, later): (Vec<Fresh>, Vec<Fresh>) = std::mem::take(&mut detached.fresh)
            .into_iter()
            .partition(|fresh| end || now - fresh.since >= GRACE);
        detached.fresh = later;
        let kernel = self.host.kernel(&self.probes.reader);
        let mounts: Vec<_> = due.iter().map(Fresh::named).collect();
        let alive = live_on(kernel, &mounts);
        for (of, _) in due.into_iter().zip(alive).filter(|(_, alive)| *alive) {
            let there = detached.followed.iter().map(|followed| followed.of.umount.source);
            if !has_room(there, of.umount.source, FOLLOWED_MAX) {
                *detached.skipped.entry(of.umount.source).or_default() += 1;
                continue;
            }
            detached.followed.push(Followed {
                cause: self.causes.number(),
                of,
                kept: None,
            });
        }
    }

    fn end_freed(&mut self, followed: &mut Vec<Followed>) {
        let kernel = self.host.kernel(&self.probes.reader);
        let mounts: Vec<_> = followed.iter().map(|followed| followed.of.named()).collect();
        let mut alive = live_on(kernel, &mounts).into_iter();
        let freed: Vec<Followed> = followed
            .extract_if(.., |_| !alive.next().unwrap_or(true))
            .collect();
        // Of what was never in the stream there is no end.
        for freed in freed.into_iter().filter(|freed| freed.kept.is_some()) {
            self.push(Record::Freed(Freed {
                cause: freed.cause,
                time: boot_nanos(),
            }));
        }
    }

    /// One look at all tasks, for those that are new, of another count than before, or cannot be counted.
    fn look_what_keeps(&mut self, detached: &mut DetachedMounts) {
        let kernel = self.host.kernel(&self.probes.reader);
        let mounts: Vec<&Mount> = detached
            .followed
            .iter()
            .map(|followed| &followed.of.mount)
            .collect();
        let before = counts(kernel, &mounts);
        let due: HashSet<u64> = detached
            .followed
            .iter()
            .zip(&before)
            .filter(|(followed, count)| {
                let known = followed.kept.as_ref();
                count.is_none() || known.is_none_or(|kept| kept.counted != **count)
            })
            .map(|(followed, _)| followed.of.mount.address)
            .collect();
        if due.is_empty() {
            return;
        }
        let began = Instant::now();
        let roles: HashMap<u64, Through> = due.iter().map(|address| (*address, Through::Target)).collect();
        let tasks = kernel.tasks(self.host.task()).all;
        let found = survey(kernel, &tasks, &roles, &HashSet::new());
        let mut holders: HashMap<u64, (Vec<Holder>, Vec<Object>)> = HashMap::new();
        for (index, mut reference) in found.references.into_iter().enumerate() {
            let process = reference.holder.process.as_mut();
            if let Some(process) = process.filter(|_| index < IDENTIFIED_MAX) {
                *process =
                    self.identities
                        .complete(self.host.kernel(&self.probes.reader), process, reference.start);
            }
            reference.holder.counted = true;
            reference.holder.evidence = vec![EvidenceSource::Snapshot];
            let (holders, objects) = holders.entry(reference.mount).or_default();
            objects.push(Object {
                address: reference.object,
                start: reference.start,
                dentry: reference.dentry,
            });
            holders.push(reference.holder);
        }
        let mut ledger = Ledger::read(self.probes.ledger.as_ref()).open_on(&due, LEDGER_MAX);
        let after = counts(kernel, &mounts);
        detached.took = began.elapsed();
        detached.surveyed = Some(Instant::now());
        log::debug!("{} detached mounts: looking took {:?}", due.len(), detached.took);
        // A lookup that passes by has a reference for a moment.
        let counts: HashMap<u64, Option<u64>> = mounts
            .iter()
            .map(|mount| mount.address)
            .zip(before.into_iter().zip(after))
            .filter(|(address, _)| due.contains(address))
            .map(|(address, (before, after))| (address, before.zip(after).map(|(b, a)| b.min(a))))
            .collect();
        // Of one that went meanwhile, the holders of before are those that kept it.
        self.end_freed(&mut detached.followed);
        let looked = boot_nanos();
        for followed in &mut detached.followed {
            let Some(counted) = counts.get(&followed.of.mount.address).copied() else {
                continue;
            };
            let (holders, objects) = holders.remove(&followed.of.mount.address).unwrap_or_default();
            let kept = Some(Kept {
                counted,
                holders: holders.clone(),
            });
            if followed.kept == kept {
                continue;
            }
            followed.kept = kept;
            self.push(Record::Detached(Box::new(Detached {
                cause: followed.cause,
                mount: mount_key(&followed.of.mount),
                detached: followed.of.umount.returned,
                source: followed.of.umount.source,
                caller: followed.of.umount.caller.clone(),
                target: followed.of.target.clone(),
                holders,
                counted,
                looked,
                objects,
                ledger: ledger.remove(&followed.of.mount.address).unwrap_or_default(),
            })));
        }
    }
}
