//! What is looked at when an umount was refused: what the files of the history are called, and all references.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Pending, Session};
use crate::{
    kernel::Paths,
    live::{ledger::Ledger, sampler::sample},
    model::Text,
    stream::{Named, RawUmount, Record, Sample},
    watchdog::{self, Step},
};

/// A snapshot that takes longer than this is not repeated for every attempt.
const CHEAP: Duration = Duration::from_millis(10);

/// Files of the history that are named for one attempt at the most.
const NAMED_MAX: usize = 256;

/// Files of the ledger that go into the stream with a snapshot at the most.
pub(super) const LEDGER_MAX: usize = 10_000;

impl Session {
    /// Reads what the files are called that were open while an attempt was refused: they may be gone when it is looked
    /// at. A dentry outlives the file; that it is still the same is told by the hash of its name.
    pub(super) fn name_history(&mut self, raw: &RawUmount) {
        let Some((address, _)) = raw.compared else {
            return;
        };
        let nameless = self
            .analyzer
            .history()
            .nameless(address, raw.entered, raw.checked);
        let kernel = self.host.kernel(&self.probes.reader);
        let Some(mount) = kernel.mount(address).filter(|_| !nameless.is_empty()) else {
            return;
        };
        let dentries: Vec<(u64, u64)> = nameless.into_iter().take(NAMED_MAX).collect();
        let addresses: Vec<u64> = dentries.iter().map(|(dentry, _)| *dentry).collect();
        let mut paths = Paths::new(kernel);
        paths.load(&addresses);
        let offset = self.host.layout.table.dentry_hash_len;
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
            self.push(Record::Named(named));
        }
    }

    /// Snapshots after the last refused attempt of each target of a source: the first at once. An expensive one is not
    /// repeated soon: its holders are taken to cover the attempts between two that found them.
    pub(super) fn sample_pending(&mut self, source: u64) {
        let rest = Instant::now() < self.sample_next;
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
            let kernel = self.host.kernel(&self.probes.reader);
            // It may have been unmounted meanwhile.
            let Some(target) = kernel.mount(target.address).filter(|now| now.is_still(&target)) else {
                continue;
            };
            let path = self.view.mount(target.address).map(|(_, mounted)| &mounted.path);
            let _step = watchdog::within(Step::References, path.map_or(&[], Vec::as_slice));
            let ledger = Ledger::read(self.probes.ledger.as_ref());
            let mut snapshot = sample(
                &self.host,
                &self.probes.reader,
                &self.identities,
                &target,
                &ledger.files(),
            );
            let ledger = ledger.of(&snapshot, LEDGER_MAX);
            if self.ledger.is_stale() {
                snapshot
                    .gaps
                    .push("opens were lost: a file that is in no table may be missing".to_owned());
                let kernel = self.host.kernel(&self.probes.reader);
                if let Some(maps) = &mut self.probes.ledger {
                    self.ledger.mend(kernel, maps, &snapshot);
                }
            }
            self.sampled.insert(mount);
            let took = began.elapsed();
            if took > CHEAP {
                self.sample_next = Instant::now() + took * 4;
            }
            // Names read while it was taken down are no names.
            let kernel = self.host.kernel(&self.probes.reader);
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
            self.push(Record::Snapshot(Box::new(Sample {
                mount,
                attempt,
                source,
                snapshot,
                ledger,
            })));
        }
    }
}
