//! Refused umounts: what is looked at when one was refused, which is what the files of the history are called, and all
//! references; and when their targets are gone.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tracer_common::HOST;

use super::follower::Follower;
use crate::{
    identity::boot_nanos,
    kernel::{Mount, Paths},
    live::{context::Context, ledger::Ledger, returned::Returned, sampler::sample, target::mount_key},
    model::Text,
    probe::Losses,
    stream::{Gone, MountKey, Named, RawUmount, Record, Sample},
    watchdog::{self, Step},
};

/// A snapshot that takes longer than this is not repeated for every attempt.
const CHEAP: Duration = Duration::from_millis(10);
/// It is repeated after so many times what it took.
const REST: u32 = 4;

/// Files of the history that are named for one attempt at the most.
const NAMED_MAX: usize = 256;

/// Files of the ledger that go into the stream with a snapshot at the most.
pub(super) const LEDGER_MAX: usize = 10_000;

/// How long the record of an umount may take to arrive after its mount has gone.
const GRACE: Duration = Duration::from_millis(500);

/// How long after its mount has gone an umount that is under way may be the one that did it: one that hangs may be of
/// something else.
const LATE: Duration = Duration::from_secs(30);

/// An umount of a user that has not returned for so long may never do so: nobody else waits for it.
const HUNG: Duration = Duration::from_secs(1);

/// What is known of them.
#[derive(Debug, Default)]
pub(in crate::live) struct RefusedUmounts {
    ledger: Ledger,
    pending: HashMap<MountKey, Pending>,
    /// Targets that were found gone without an umount that did it.
    vanished: HashMap<MountKey, Vanished>,
    /// Targets of open incidents that were looked at once.
    sampled: HashSet<MountKey>,
    /// An expensive look is not repeated before.
    next: Option<Instant>,
}

/// A target whose last refused attempt wants a snapshot.
#[derive(Debug)]
struct Pending {
    mount: Mount,
    attempt: u64,
    /// On whose account it was refused.
    source: u64,
}

/// A target that is gone from the tables.
#[derive(Debug)]
struct Vanished {
    /// When it was found so, in nanoseconds of the boot clock.
    found: u64,
    /// Since when no umount is under way that may have done it.
    since: Instant,
}

impl Vanished {
    fn since_found(&self) -> Duration {
        Duration::from_nanos(boot_nanos().saturating_sub(self.found))
    }
}

impl Follower for RefusedUmounts {
    fn step(&self) -> Step {
        Step::References
    }

    fn umount(&mut self, context: &mut Context, umount: &Returned<'_>) {
        if !umount.is_refused() || !umount.shown {
            return;
        }
        if let Some(mount) = &umount.mount {
            self.pending.insert(
                mount_key(mount),
                Pending {
                    mount: mount.clone(),
                    attempt: umount.raw.returned,
                    source: umount.raw.source,
                },
            );
        }
        name_history(context, umount.raw);
    }

    /// Snapshots after the last refused attempt of each target of a source: the first at once. An expensive one is not
    /// repeated soon: its holders are taken to cover the attempts between two that found them.
    fn drained(&mut self, context: &mut Context, source: u64) {
        let rest = self.next.is_some_and(|next| Instant::now() < next);
        let (now, later): (HashMap<_, _>, _) =
            std::mem::take(&mut self.pending)
                .into_iter()
                .partition(|(mount, pending)| {
                    pending.source == source && (!rest || !self.sampled.contains(mount))
                });
        self.pending = later;
        for (
            mount,
            Pending {
                mount: target,
                attempt,
                source,
            },
        ) in now
        {
            let began = Instant::now();
            let kernel = context.kernel();
            // It may have been unmounted meanwhile.
            let Some(target) = kernel.mount(target.address).filter(|now| now.is_still(&target)) else {
                continue;
            };
            let path = context
                .picture
                .view
                .mount(target.address)
                .map(|(_, mounted)| &mounted.path);
            let _step = watchdog::within(Step::References, path.map_or(&[], Vec::as_slice));
            let ledger = Ledger::read(context.probes.ledger.as_ref());
            let mut snapshot = sample(
                &context.host,
                &context.probes.reader,
                &context.identities,
                &target,
                &ledger.files(),
            );
            let ledger = ledger.of(&snapshot, LEDGER_MAX);
            if self.ledger.is_stale() {
                snapshot
                    .gaps
                    .push("opens were lost: a file that is in no table may be missing".to_owned());
                let kernel = context.host.kernel(&context.probes.reader);
                if let Some(maps) = &mut context.probes.ledger {
                    self.ledger.mend(kernel, maps, &snapshot);
                }
            }
            self.sampled.insert(mount);
            let took = began.elapsed();
            if took > CHEAP {
                self.next = Some(Instant::now() + took * REST);
            }
            // Names read while it was taken down are no names.
            let kernel = context.kernel();
            if !kernel
                .mount(target.address)
                .is_some_and(|now| now.is_still(&target))
            {
                continue;
            }
            log::debug!(
                "snapshot of mount {} took {took:?}; the attempt before it returned at {attempt} ns of the boot clock",
                mount.id
            );
            context.push(Record::Snapshot(Box::new(Sample {
                mount,
                attempt,
                source,
                snapshot,
                ledger,
            })));
        }
    }

    fn tick(&mut self, context: &mut Context, _end: bool) {
        self.tell_gone(context);
    }

    fn has_caught_up(&self, context: &Context, asked: u64) -> bool {
        let is_later = |time: u64| time > asked;
        self.pending.values().all(|pending| is_later(pending.attempt))
            && self.vanished.iter().all(|(mount, vanished)| {
                let of_host = context.analyzer.source_of(*mount) == Some(HOST);
                is_later(vanished.found) || !of_host && vanished.since_found() > HUNG
            })
    }
}

impl RefusedUmounts {
    /// So much was lost: a file that is not in the ledger may be open.
    pub(in crate::live) fn lost(&mut self, losses: &Losses) {
        self.ledger.lost(losses);
    }

    /// A last attempt is looked at even where the last look was expensive.
    pub(in crate::live) fn rest_no_longer(&mut self) {
        self.next = None;
    }

    /// Tells which targets of open incidents are not mounted any more.
    pub(in crate::live) fn tell_gone(&mut self, context: &mut Context) {
        let _step = watchdog::within(Step::Gone, &[]);
        let targets: Vec<MountKey> = context.analyzer.open_targets().collect();
        self.sampled.retain(|mount| targets.contains(mount));
        let kernel = context.kernel();
        let gone: Vec<MountKey> = targets
            .into_iter()
            .filter(|key| {
                let now = kernel.mount(key.address);
                !now.is_some_and(|now| now.id == key.id && now.unique == key.unique && now.namespace != 0)
            })
            .collect();
        self.vanished.retain(|mount, _| gone.contains(mount));
        let under_way: Vec<(u64, u64)> = if gone.is_empty() {
            Vec::new()
        } else {
            let calls = context.probes.under_way.all().into_iter();
            calls.map(|(_, call)| (call.source, call.entered)).collect()
        };
        for mount in gone {
            let vanished = self.vanished.entry(mount).or_insert_with(|| Vanished {
                found: boot_nanos(),
                since: Instant::now(),
            });
            let late = vanished.since_found() > LATE;
            // Nobody but the host takes away what the host could unmount: an umount of somebody else may hang for ever.
            let of_host = context.analyzer.source_of(mount) == Some(HOST);
            let mut may_be_it = under_way.iter().filter(|(source, _)| !of_host || *source == HOST);
            if !late && may_be_it.any(|(_, entered)| *entered <= vanished.found) {
                vanished.since = Instant::now();
            }
            let since = vanished.since;
            // The mount goes before the umount returns, and before its record is here.
            if !context.analyzer.was_removed(mount) && since.elapsed() < GRACE {
                continue;
            }
            self.vanished.remove(&mount);
            self.pending.remove(&mount);
            context.picture.mark_stale();
            context.push(Record::Gone(Gone {
                mount,
                time: boot_nanos(),
            }));
        }
    }
}

/// Reads what the files are called that were open while an attempt was refused: they may be gone when it is looked
/// at. A dentry outlives the file; that it is still the same is told by the hash of its name.
fn name_history(context: &mut Context, raw: &RawUmount) {
    let Some((address, _)) = raw.compared else {
        return;
    };
    let nameless = context
        .analyzer
        .history()
        .nameless(address, raw.entered, raw.checked);
    let kernel = context.kernel();
    let Some(mount) = kernel.mount(address).filter(|_| !nameless.is_empty()) else {
        return;
    };
    let dentries: Vec<(u64, u64)> = nameless.into_iter().take(NAMED_MAX).collect();
    let addresses: Vec<u64> = dentries.iter().map(|(dentry, _)| *dentry).collect();
    let mut paths = Paths::new(kernel);
    paths.load(&addresses);
    let offset = context.host.layout.table.dentry_hash_len;
    let hashes = kernel.memory.words(&addresses, offset);
    let named: Vec<Named> = dentries
        .into_iter()
        .zip(hashes)
        .filter(|((_, name), hash)| *name != 0 && *hash == Some(*name))
        .filter_map(|((dentry, name), _)| {
            let (path, deleted) = paths.in_mount(mount.root, dentry)?;
            Some(Named {
                mount: address,
                dentry,
                name,
                path: Text::from(path.shown()),
                deleted,
            })
        })
        .collect();
    for named in named {
        context.push(Record::Named(named));
    }
}
