//! Umounts that were refused, and those that succeeded.

use std::collections::BTreeMap;

use super::{Analyzer, TargetKey};
use crate::{
    incident::{
        books::Told,
        holders::Holders,
        open::Open,
        run::{Output, bursts},
        told::MNT_DETACH,
    },
    model::{Outcome, Process},
    stream::Umount,
};

/// Attempts of one incident whose times are kept.
const ATTEMPTS_MAX: usize = 100_000;
const EBUSY: i64 = -16;

impl Analyzer {
    /// An umount that returned.
    pub(super) fn umount(&mut self, umount: Umount) -> Vec<Output> {
        let took = umount.returned.saturating_sub(umount.entered);
        self.totals.umounts += 1;
        if self
            .totals
            .slowest
            .as_ref()
            .is_none_or(|(slowest, _)| took > *slowest)
        {
            self.totals.slowest = Some((took, umount.target.path.clone()));
        }
        if umount.ret == EBUSY {
            self.totals.refused += 1;
            if umount.shown {
                self.refused(umount);
                return self.beyond();
            }
            self.totals.refused_elsewhere += 1;
            return Vec::new();
        }
        if umount.ret == 0 {
            self.totals.detached += u64::from(umount.flags & MNT_DETACH != 0);
            return self.succeeded(&umount);
        }
        Vec::new()
    }

    /// The incident that a refusal belongs to. Where one attempt could be resolved and another could not (the mount was
    /// gone when it was looked for), path and namespace say that it is the same.
    fn key_of(&mut self, umount: &Umount) -> TargetKey {
        let path = TargetKey::Path(umount.caller.mount_namespace, umount.target.path.clone());
        let Some(mount) = umount.mount else {
            let same = self.open.iter().find(|(_, open)| {
                open.removed.is_none()
                    && open.target.path == umount.target.path
                    && open.caller.mount_namespace == umount.caller.mount_namespace
            });
            return same.map_or(path, |(key, _)| key.clone());
        };
        let key = TargetKey::Mount(mount);
        if !self.open.contains_key(&key)
            && let Some(open) = self.open.remove(&path)
        {
            self.keys.insert(open.id, key.clone());
            self.open.insert(key.clone(), open);
        }
        key
    }

    fn refused(&mut self, umount: Umount) {
        let key = self.key_of(&umount);
        if let Some(mount) = umount.mount {
            self.attempts.refused(mount, &umount);
        }
        let guilty = match (umount.busy_check, umount.compared) {
            (Some(true), Some((guilty, _))) if self.start.history => Some(guilty),
            _ => None,
        };
        let has_room = guilty.is_none_or(|guilty| self.room.take(self.history.open_on(guilty)));
        let passing = guilty
            .filter(|_| has_room)
            .map(|guilty| self.history.blocking(guilty, umount.entered, umount.checked));
        let clock = self.start.clock;
        let keep = self.timelines.is_some();
        let next_id = &mut self.next_id;
        let incidents = &mut self.totals.incidents;
        self.due = 0;
        let keys = &mut self.keys;
        let open = self.open.entry(key.clone()).or_insert_with(|| {
            let id = *next_id;
            keys.insert(id, key);
            *next_id += 1;
            *incidents += 1;
            Open {
                id,
                first_entered: umount.entered,
                last_returned: 0,
                attempts: 0,
                source: umount.source,
                returns: Vec::new(),
                entries: Vec::new(),
                bursts: 0,
                flags: 0,
                caller: Process::default(),
                callers: BTreeMap::new(),
                target: umount.target.clone(),
                mount: None,
                told: Told::default(),
                holders: Holders::with_clock(clock),
                books: None,
                removed: None,
                announced: false,
            }
        });
        open.bursts += u64::from(bursts(open.attempts, open.last_returned, umount.entered));
        open.attempts += 1;
        let refused = umount.checked.unwrap_or(umount.returned);
        open.holders.dropped += u64::from(!has_room);
        let passing = passing.into_iter().flatten();
        open.holders.passing(passing, refused, umount.returned);
        for file in open.holders.new_files() {
            self.by_file.entry(file).or_default().insert(open.id);
        }
        if open.returns.len() < ATTEMPTS_MAX {
            open.returns.push(umount.returned);
            if keep {
                open.entries.push(umount.entered);
            }
        }
        open.last_returned = umount.returned;
        open.source = umount.source;
        open.flags = umount.flags;
        open.told = Told {
            busy_check: umount.busy_check,
            compared: umount.compared,
            remount: umount.remount,
        };
        let caller = open
            .callers
            .entry(umount.caller.pid)
            .or_insert_with(|| (umount.caller.comm.clone(), 0));
        caller.1 += 1;
        open.mount = umount.mount.map(|mount| mount.address).or(open.mount);
        open.holders.target = open.mount;
        open.caller = umount.caller;
        open.target = umount.target;
    }

    /// An umount succeeded: it may have been the target of an incident, which [`Record::Gone`] will say.
    fn succeeded(&mut self, umount: &Umount) -> Vec<Output> {
        if let Some(mount) = umount.mount {
            self.attempts.gone(mount);
        }
        for (key, open) in &mut self.open {
            let same = match key {
                TargetKey::Mount(mount) if umount.mount.is_some() => umount.mount == Some(*mount),
                _ => {
                    open.target.path == umount.target.path
                        && open.caller.mount_namespace == umount.caller.mount_namespace
                }
            };
            if same {
                open.removed = Some(umount.flags);
            }
        }
        // Where the mount could not be told, the path is all there is.
        let closed: Vec<TargetKey> = self
            .open
            .iter()
            .filter(|(key, open)| matches!(key, TargetKey::Path(..)) && open.removed.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        let outcome = if umount.flags & MNT_DETACH == 0 {
            Outcome::Released
        } else {
            Outcome::Detached
        };
        closed
            .into_iter()
            .filter_map(|key| self.close(&key, outcome, umount.returned))
            .collect()
    }
}
