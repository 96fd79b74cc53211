//! System calls other than umount2 that were refused: what keeps their target is looked for when they fail, and again
//! from time to time, until it is gone or nobody asks any more.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracer_common::HOST;

use super::follower::Follower;
use crate::{
    identity::boot_nanos,
    kernel::device_numbers,
    live::{
        context::Context,
        device::name_of,
        place::on_mount,
        refused::{Asked, Found, text},
    },
    model::{Holder, Kind, Operation, Reason, Target},
    stream::{Freed, RawOperation, Record, Refused},
    watchdog::Step,
};

/// A look is good for so long: a caller may ask again and again.
const FRESH: Duration = Duration::from_millis(300);
/// How long after the last refusal it is still looked for.
const FOLLOWED: Duration = Duration::from_secs(30);
/// Causes that are followed at the most; the oldest is forgotten.
const CAUSES_MAX: usize = 256;
/// How long those of others are looked at again at a time.
const OTHERS_FOR: Duration = Duration::from_millis(20);
/// The same when ebusy ends: whoever asked for that waits.
const OTHERS_AT_END: Duration = Duration::from_millis(250);

/// What a cause is known by: the operation, the mount namespace, and the path or name.
type Key = (Operation, u32, Vec<u8>);

/// What is known of refused calls.
#[derive(Debug, Default)]
pub(in crate::live) struct RefusedOperations {
    causes: HashMap<Key, Cause>,
}

impl RefusedOperations {
    /// Forgets the oldest of the source that has most, if there are too many.
    fn make_room(&mut self) {
        if self.causes.len() < CAUSES_MAX {
            return;
        }
        let mut by_source: HashMap<u64, usize> = HashMap::new();
        for cause in self.causes.values() {
            *by_source.entry(cause.source).or_default() += 1;
        }
        let most = by_source
            .into_iter()
            .max_by_key(|(source, count)| (*count, *source));
        let of_most = |cause: &Cause| most.is_some_and(|(source, _)| source == cause.source);
        let oldest = self
            .causes
            .iter()
            .filter(|(_, cause)| of_most(cause))
            .min_by_key(|(_, cause)| cause.refused)
            .map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.causes.remove(&oldest);
        }
    }
}

#[derive(Debug)]
struct Cause {
    number: u64,
    /// On whose account it was refused first.
    source: u64,
    asked: Asked,
    found: Found,
    shown: bool,
    looked: Instant,
    looked_at: u64,
    refused: Instant,
    /// How long the last look took.
    took: Duration,
}

/// Whether two looks found the same.
fn same(before: &Holder, now: &Holder) -> bool {
    let pid = |of: &Holder| of.process.as_ref().map(|process| process.pid);
    let mount = |of: &Holder| (of.mount_id, of.mount_namespace, of.kind == Kind::Mount);
    mount(before) == mount(now)
        && before.path == now.path
        && before.seen_as == now.seen_as
        && before.held_by == now.held_by
        && (before.fd, pid(before)) == (now.fd, pid(now))
}

/// A device that is to go; it is on no mount. `source` is what it is known by otherwise, or what it has.
pub(super) fn device_target(path: &[u8], namespace: u32, device: u32, source: Option<Vec<u8>>) -> Target {
    let path = text(path);
    let (major, minor) = device_numbers(device);
    Target {
        path_base64: path.base64_if_lossy(),
        path,
        source: source.map(Into::into),
        device: Some(format!("{major}:{minor}")),
        mount_namespace: Some(namespace),
        ..Target::default()
    }
}

/// The target of a refused call, as it is told.
fn target(context: &Context, (operation, number, path): &Key, opened: Option<u32>) -> Target {
    if let Some(device) = opened {
        let source = name_of(device).map(|name| format!("/dev/{name}").into_bytes());
        return device_target(path, *number, device, source);
    }
    let kernel = context.kernel();
    let containers = context.identities.containers();
    let mounted = context
        .picture
        .view
        .namespace(*number)
        .and_then(|namespace| on_mount(namespace, path, *operation == Operation::Remount));
    let superblock = mounted.and_then(|(mounted, _)| kernel.superblock(mounted.mount.superblock));
    let remounted = mounted.filter(|_| *operation == Operation::Remount);
    let path = text(path);
    Target {
        path_base64: path.base64_if_lossy(),
        container: mounted
            .filter(|(mounted, _)| mounted.by_root)
            .and_then(|_| containers.container_of_mount_path(path.as_bytes())),
        path,
        mount_id: remounted.map(|(mounted, _)| mounted.mount.id),
        fs_type: superblock.as_ref().map(|superblock| superblock.fs_type.clone()),
        source: remounted.and_then(|(mounted, _)| Some(kernel.device_name(&mounted.mount)?.into())),
        device: superblock.map(|superblock| superblock.device),
        mount_namespace: Some(*number),
        propagation: None,
    }
}

impl Follower for RefusedOperations {
    fn step(&self) -> Step {
        Step::Operations
    }

    fn operation(&mut self, context: &mut Context, asked: &Asked, raw: &RawOperation) {
        if asked.operation.is_pending() {
            return;
        }
        let (name, opened) = (asked.name(), asked.opened_device());
        let caller = context.complete(&raw.caller, raw.start);
        let key = (asked.operation, asked.namespace, name);
        let now = Instant::now();
        let known = self
            .causes
            .get(&key)
            .is_some_and(|cause| cause.asked == *asked && now - cause.looked < FRESH);
        if !known {
            let fresh = raw.source == HOST || context.picture.is_rested();
            let (found, took) = context.look_for(asked, fresh);
            let shown = context.is_operation_shown(&text(&key.2), &caller, &found);
            let before = self.causes.remove(&key);
            let number = before.map_or_else(|| context.number(), |cause| cause.number);
            self.make_room();
            let cause = Cause {
                number,
                source: raw.source,
                asked: asked.clone(),
                found,
                shown,
                looked: Instant::now(),
                looked_at: boot_nanos(),
                refused: now,
                took,
            };
            self.causes.insert(key.clone(), cause);
        }
        let target = target(context, &key, opened);
        let Some(cause) = self.causes.get_mut(&key) else {
            return;
        };
        cause.refused = now;
        if !cause.shown {
            return;
        }
        let refused = Refused {
            cause: cause.number,
            operation: cause.asked.operation,
            returned: raw.time,
            source: raw.source,
            caller,
            reason: cause.found.reason,
            holders: cause.found.holders.clone(),
            bystanders: cause.found.bystanders.clone(),
            looked: cause.looked_at,
            target,
        };
        context.push(Record::Refused(Box::new(refused)));
    }

    /// Looks again for what keeps the targets of calls that were refused lately; at the `end` whenever it was that it was
    /// looked for last.
    fn tick(&mut self, context: &mut Context, end: bool) {
        let now = Instant::now();
        self.causes
            .retain(|_, cause| now - cause.refused < FOLLOWED + FRESH);
        let mut due: Vec<_> = self
            .causes
            .iter()
            .filter(|(_, cause)| {
                let rest = FRESH.max(cause.took * 5);
                cause.shown && cause.found.reason != Reason::Unknown && (end || now - cause.looked >= rest)
            })
            .map(|(key, cause)| (cause.source, cause.looked, key.clone(), cause.asked.clone()))
            .collect();
        // Those of the host first; of others those that were not looked at for the longest time, as far as there is time.
        due.sort_by_key(|(source, looked, ..)| (*source != HOST, *looked));
        let mut spent = Duration::ZERO;
        for (index, (source, _, key, asked)) in due.into_iter().enumerate() {
            if source != HOST && spent > if end { OTHERS_AT_END } else { OTHERS_FOR } {
                break;
            }
            let (found, took) = context.look_for(&asked, index == 0);
            let Some(cause) = self.causes.get_mut(&key) else {
                continue;
            };
            cause.looked = Instant::now();
            cause.looked_at = boot_nanos();
            cause.took = took;
            if source != HOST {
                spent += took;
            }
            // Those that came later refused nothing: what was mounted since has its layers to itself.
            let before = std::mem::take(&mut cause.found.holders);
            let mut still = found.holders;
            still.retain(|holder| before.iter().any(|before| same(before, holder)));
            let gone = still.is_empty();
            let number = cause.number;
            cause.found.holders = still;
            if gone {
                self.causes.remove(&key);
                context.push(Record::Freed(Freed {
                    cause: number,
                    time: boot_nanos(),
                }));
            }
        }
    }
}
