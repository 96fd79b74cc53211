//! Mounts that an umount with `MNT_DETACH` took away: most are freed at once. What keeps the others is looked for, until
//! their last reference goes.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{follower::Follower, umounts::LEDGER_MAX};
use crate::{
    identity::boot_nanos,
    incident::{MNT_DETACH, Skipped, has_room},
    kernel::{Kernel, Mount, survey},
    live::{
        context::Context,
        ledger::Ledger,
        left::{live_on, place},
        own_namespace,
        returned::{Returned, UMOUNT_NOFOLLOW},
        target::{absolute, at_path, describe, mount_key, unknown},
    },
    model::{EvidenceSource, Holder, Process, Target, Through},
    stream::{Detached, Freed, Object, RawUmount, Record},
    watchdog::Step,
};

/// The kernel frees what nobody uses on the way back from umount2, and its data a little later: what is there after
/// that lives on.
const GRACE: Duration = Duration::from_millis(200);
/// It is looked no more often than that.
const POLL: Duration = Duration::from_secs(1);
/// A look at all tasks is repeated after so many times what it took.
const REST: u32 = 20;
/// What is lost of those that are too many.
const SKIPPED: &str = "detached mounts: too many to follow";
/// Mounts that are followed at the most.
const FOLLOWED_MAX: usize = 256;
/// Mounts that wait for their first look at the most.
const FRESH_MAX: usize = 4096;
/// Holders of one look that are identified from /proc at the most.
const IDENTIFIED_MAX: usize = 256;

/// What is known of them.
#[derive(Debug, Default)]
pub(in crate::live) struct DetachedMounts {
    fresh: Vec<Fresh>,
    followed: Vec<Followed>,
    looked: Option<Instant>,
    surveyed: Option<Instant>,
    /// How long the last look at all tasks took.
    took: Duration,
    /// Mounts that live on and were too many to follow, by source.
    skipped: Skipped,
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

/// References beyond those of children.
fn counts(kernel: Kernel<'_>, mounts: &[&Mount]) -> Vec<Option<u64>> {
    let counts = kernel.counts(mounts);
    let extra = |mount: &Mount, count: Option<i32>| {
        let children = if kernel.layout.children_counted {
            kernel.children(mount).items.len() as u64
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

/// A mount with all below it, and the copies of those in the same places elsewhere, which propagation takes away as
/// well: as they were before.
fn taken_with(context: &Context, top: &Mount) -> Vec<(Mount, Target)> {
    let all = || {
        let left = context.picture.left.iter().map(|left| &left.mount);
        left.chain(context.picture.view.all().map(|(_, mounted)| &mounted.mount))
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
    let mut found: Vec<(Mount, Target)> = context
        .picture
        .left
        .iter()
        .filter(|left| places.contains(&place(&left.mount)))
        .map(|left| (left.mount.clone(), left.target.clone()))
        .collect();
    let containers = context.identities.containers();
    for (namespace, mounted) in context.picture.view.all() {
        if places.contains(&place(&mounted.mount)) {
            let target = describe(
                context.kernel(),
                containers,
                &context.picture.view,
                namespace,
                mounted,
            );
            found.push((mounted.mount.clone(), target));
        }
    }
    found
}

impl Follower for DetachedMounts {
    fn step(&self) -> Step {
        Step::Detached
    }

    fn umount(&mut self, context: &mut Context, umount: &Returned<'_>) {
        let raw = umount.raw;
        if raw.ret == 0 && raw.flags & MNT_DETACH != 0 && umount.shown {
            self.detached(context, raw);
        }
    }

    fn tick(&mut self, context: &mut Context, end: bool) {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, rest| last.is_none_or(|last| now - last >= rest);
        let idle = self.fresh.is_empty() && self.followed.is_empty();
        if idle || !(end || is_due(self.looked, POLL)) {
            return;
        }
        self.looked = Some(now);
        self.admit(context, now, end);
        self.end_freed(context);
        if is_due(self.surveyed, POLL.max(self.took * REST)) {
            self.look_what_keeps(context);
        }
    }

    /// None that was detached by then waits for its first look.
    fn has_caught_up(&self, _context: &Context, asked: u64) -> bool {
        let unseen = self.followed.iter().filter(|followed| followed.kept.is_none());
        let mut waiting = self.fresh.iter().chain(unseen.map(|followed| &followed.of));
        waiting.all(|fresh| fresh.umount.returned > asked)
    }

    fn skipped(&self) -> Option<(&'static str, &Skipped)> {
        Some((SKIPPED, &self.skipped))
    }
}

impl DetachedMounts {
    /// An umount with `MNT_DETACH` succeeded: what it took with it is looked at a little later, as far as it is still
    /// there.
    fn detached(&mut self, context: &mut Context, raw: &RawUmount) {
        let kernel = context.kernel();
        let path = absolute(kernel, raw);
        let place = raw.caller.mount_namespace.zip(path.as_deref());
        let left = context.picture.left.iter().rev().find(|left| match raw.target {
            Some(_) => raw.meant(mount_key(&left.mount)),
            None => place.is_some_and(|(namespace, path)| {
                left.target.mount_namespace == Some(namespace) && left.path == path
            }),
        });
        let seen = || {
            if let Some((address, _)) = raw.target {
                let (_, mounted) = context.picture.view.mount(address)?;
                return raw.meant(mount_key(&mounted.mount)).then_some(mounted);
            }
            let (number, path) = place?;
            let own = own_namespace() == Some(number);
            let last = raw.flags & UMOUNT_NOFOLLOW == 0;
            at_path(context.picture.view.namespace(number)?, path, own, last)
        };
        // Another one may have been in that place, or at that address, before: what is alive and detached is asked later.
        let known = left.map(|left| &left.mount).into_iter();
        let known = known.chain(seen().map(|mounted| &mounted.mount));
        // Where the tables were not read since it was mounted, the kernel's own record says which it is.
        let unseen = || {
            let mount = kernel.mount(raw.target?.0)?;
            if !raw.meant(mount_key(&mount)) {
                return None;
            }
            let number = raw.caller.mount_namespace;
            let target = Target {
                mount_id: Some(mount.id),
                ..unknown(path.as_deref().or(raw.path.as_deref()), number)
            };
            Some((mount, target))
        };
        let mut found: Vec<(Mount, Target)> = known.flat_map(|top| taken_with(context, top)).collect();
        found.extend(unseen());
        let mut seen = HashSet::new();
        found.retain(|(mount, _)| seen.insert((mount.address, mount.id)));
        let mounts: Vec<_> = found
            .iter()
            .map(|(mount, target)| (mount, target.device.as_deref()))
            .collect();
        let alive = live_on(kernel, &mounts);
        let is_new = |mount: &Mount| {
            let followed = self.followed.iter().map(|followed| &followed.of);
            !followed.chain(&self.fresh).any(|of| of.mount.is_same(mount))
        };
        let found: Vec<(Mount, Target)> = found
            .into_iter()
            .zip(alive)
            .filter(|((mount, _), alive)| *alive && is_new(mount))
            .map(|(found, _)| found)
            .collect();
        context.picture.mark_stale();
        if found.is_empty() {
            return;
        }
        let umount = Rc::new(Umount {
            returned: raw.returned,
            source: raw.source,
            caller: context.complete_caller(&raw.caller, raw.start),
        });
        let since = Instant::now();
        for (mount, target) in found {
            let there = self.fresh.iter().map(|fresh| fresh.umount.source);
            if has_room(there, raw.source, FRESH_MAX) {
                self.fresh.push(Fresh {
                    mount,
                    target,
                    umount: Rc::clone(&umount),
                    since,
                });
            } else {
                *self.skipped.entry(raw.source).or_default() += 1;
            }
        }
    }

    /// Those that are there after a while are followed.
    fn admit(&mut self, context: &mut Context, now: Instant, end: bool) {
        let (due, later): (Vec<Fresh>, Vec<Fresh>) = std::mem::take(&mut self.fresh)
            .into_iter()
            .partition(|fresh| end || now - fresh.since >= GRACE);
        self.fresh = later;
        let kernel = context.kernel();
        let mounts: Vec<_> = due.iter().map(Fresh::named).collect();
        let alive = live_on(kernel, &mounts);
        for (of, _) in due.into_iter().zip(alive).filter(|(_, alive)| *alive) {
            let there = self.followed.iter().map(|followed| followed.of.umount.source);
            if !has_room(there, of.umount.source, FOLLOWED_MAX) {
                *self.skipped.entry(of.umount.source).or_default() += 1;
                continue;
            }
            self.followed.push(Followed {
                cause: context.number(),
                of,
                kept: None,
            });
        }
    }

    fn end_freed(&mut self, context: &mut Context) {
        let kernel = context.kernel();
        let mounts: Vec<_> = self.followed.iter().map(|followed| followed.of.named()).collect();
        let mut alive = live_on(kernel, &mounts).into_iter();
        let freed: Vec<Followed> = self
            .followed
            .extract_if(.., |_| !alive.next().unwrap_or(true))
            .collect();
        // Of what was never in the stream there is no end.
        for freed in freed.into_iter().filter(|freed| freed.kept.is_some()) {
            context.push(Record::Freed(Freed {
                cause: freed.cause,
                time: boot_nanos(),
            }));
        }
    }

    /// One look at all tasks, for those that are new, of another count than before, or cannot be counted.
    fn look_what_keeps(&mut self, context: &mut Context) {
        let kernel = context.kernel();
        let mounts: Vec<&Mount> = self.followed.iter().map(|followed| &followed.of.mount).collect();
        let before = counts(kernel, &mounts);
        let due: HashSet<u64> = self
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
        let tasks = kernel.tasks(context.host.task()).all;
        let found = survey(kernel, &tasks, &roles, &HashSet::new());
        let mut holders: HashMap<u64, (Vec<Holder>, Vec<Object>)> = HashMap::new();
        for (index, mut reference) in found.references.into_iter().enumerate() {
            let process = reference.holder.process.as_mut();
            if let Some(process) = process.filter(|_| index < IDENTIFIED_MAX) {
                *process = context.complete(process, reference.start);
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
        let mut ledger = Ledger::read(context.probes.ledger.as_ref()).open_on(&due, LEDGER_MAX);
        let after = counts(kernel, &mounts);
        self.took = began.elapsed();
        self.surveyed = Some(Instant::now());
        log::debug!("{} detached mounts: looking took {:?}", due.len(), self.took);
        // A lookup that passes by has a reference for a moment.
        let counts: HashMap<u64, Option<u64>> = mounts
            .iter()
            .map(|mount| mount.address)
            .zip(before.into_iter().zip(after))
            .filter(|(address, _)| due.contains(address))
            .map(|(address, (before, after))| (address, before.zip(after).map(|(b, a)| b.min(a))))
            .collect();
        // Of one that went meanwhile, the holders of before are those that kept it.
        self.end_freed(context);
        let looked = boot_nanos();
        for followed in &mut self.followed {
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
            context.push(Record::Detached(Box::new(Detached {
                cause: followed.cause,
                mount: mount_key(&followed.of.mount),
                detached: followed.of.umount.returned,
                source: followed.of.umount.source,
                caller: followed.of.umount.caller.clone(),
                target: followed.of.target.clone(),
                holders,
                counted,
                looked,
                gaps: found.gaps.clone(),
                objects,
                ledger: ledger.remove(&followed.of.mount.address).unwrap_or_default(),
            })));
        }
    }
}
