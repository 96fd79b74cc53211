//! A record as a line of JSON: `ebusy.event/1`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    identity::BootClock,
    kernel::access,
    model::{Access, Container, Holder, Process, Target, Text, Tier, Timestamp, WayIn},
    report::Redactor,
    stream::{MountKey, Record, Slow, Umount},
};

/// The value of `schema`.
pub const EVENT_SCHEMA: &str = "ebusy.event/1";

/// A mount: its ids, and a key for it throughout an export.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Mount {
    /// A key: equal for the same object within one export.
    key: String,
    #[serde(rename = "mount_id")]
    id: u32,
    unique_id: Option<u64>,
}

/// The event, by `type`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// A run of ebusy begins.
    Start {
        version: &'a str,
        kernel: &'a str,
        tier: Tier,
        /// Every open and close is there, except lost ones.
        history: bool,
    },
    /// An umount2 returned.
    Umount {
        entered: Timestamp,
        /// Time at which the refusing count was read, if the tier sees it.
        checked: Option<Timestamp>,
        /// 0, or a negative errno.
        result: i64,
        flags: Vec<String>,
        caller: &'a Process,
        /// The path as it was passed.
        passed: Option<&'a Text>,
        mount: Option<Mount>,
        target: &'a Target,
        shown: bool,
        remount: bool,
        busy_check: Option<bool>,
        /// The count that the kernel compared.
        compared: Option<i32>,
    },
    /// A file was opened on a watched mount.
    Opened {
        /// A key: equal for the same object within one export.
        file: String,
        /// A key: equal for the same object within one export.
        mount: String,
        /// A key: equal for the same object within one export.
        dentry: String,
        by: &'a Process,
        fd: Option<u32>,
        access: Access,
        executed: bool,
    },
    /// A file's last reference was dropped.
    Closed {
        /// A key: equal for the same object within one export.
        file: String,
    },
    /// A thread came into another mount namespace.
    Entered {
        operation: WayIn,
        pid: u32,
        comm: &'a Text,
        mount_namespace: u32,
        /// Its namespace before, if known.
        from: Option<u32>,
        /// The container whose root file system the namespace has.
        container: Option<&'a Container>,
    },
    /// The name of an opened file.
    Named {
        /// A key: equal for the same object within one export.
        mount: String,
        /// A key: equal for the same object within one export.
        dentry: String,
        path: &'a Text,
        /// The bytes of `path` in base64, where they are not UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(extend("contentEncoding" = "base64")))]
        path_base64: Option<String>,
        deleted: bool,
    },
    /// A snapshot was taken.
    Snapshot {
        started: Timestamp,
        /// Return of the refused attempt before it.
        attempt: Timestamp,
        mount: Mount,
        count: Option<i32>,
        count_after: Option<i32>,
        children: u64,
        copies: usize,
        holders: Vec<&'a Holder>,
        candidates: Vec<&'a Holder>,
        /// The parts that could not be read.
        gaps: &'a [String],
    },
    /// A target is not mounted any more.
    Gone { mount: Mount },
    /// A system call other than umount2 was refused with EBUSY.
    Refused {
        /// A number that stays the same until its holder is gone.
        #[cfg_attr(test, schemars(range(min = 1)))]
        cause: u64,
        #[cfg_attr(test, schemars(with = "crate::model::Operation"))]
        operation: &'a str,
        #[cfg_attr(test, schemars(with = "crate::model::Reason"))]
        reason: &'a str,
        caller: &'a Process,
        target: &'a Target,
        holders: &'a [Holder],
        bystanders: &'a [Holder],
    },
    /// A mount was detached with `MNT_DETACH` and lives on; again whenever something else keeps it.
    Detached {
        /// A number that stays the same until its last reference is gone.
        #[cfg_attr(test, schemars(range(min = 1)))]
        cause: u64,
        mount: Mount,
        /// Return of the umount2 that detached it.
        umount: Timestamp,
        caller: &'a Process,
        target: &'a Target,
        count: Option<u64>,
        holders: &'a [Holder],
    },
    /// The holder of a refused call's target is gone, or the last reference of a detached mount.
    Freed {
        /// The value of the `refused` or `detached` before.
        #[cfg_attr(test, schemars(range(min = 1)))]
        cause: u64,
    },
    /// An umount2 takes or took long; repeated whenever it waits for something else, now and then, and at its end.
    Slow {
        /// A number that stays the same until its end.
        #[cfg_attr(test, schemars(range(min = 1)))]
        cause: u64,
        entered: Timestamp,
        flags: Vec<String>,
        caller: &'a Process,
        target: &'a Target,
        /// 0, or a negative errno.
        result: Option<i64>,
        /// Time of the result.
        returned: Option<Timestamp>,
        ended: Option<Timestamp>,
        stacks: Vec<Seen<'a>>,
    },
    /// Totals of losses so far, by probe and reason.
    Lost {
        losses: &'a BTreeMap<String, u64>,
        /// Losses of users and containers that did more than ebusy records of one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        noise: Vec<Noise<'a>>,
    },
    /// ebusy stops.
    End,
}

/// Losses of one user or container.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Noise<'a> {
    by: &'a Process,
    losses: &'a BTreeMap<String, u64>,
}

/// Functions that a slow umount was seen in.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Seen<'a> {
    functions: &'a [String],
    #[cfg_attr(test, schemars(range(min = 1)))]
    looks: u64,
    first: Timestamp,
    last: Timestamp,
}

/// An event, in the order of the capture.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Line<'a> {
    schema: &'static str,
    /// `null` for an event without a time of its own: it became known between its neighbours.
    time: Option<Timestamp>,
    #[serde(flatten)]
    event: Event<'a>,
}

impl<'a> Line<'a> {
    /// The line of a record; `None` for a mere tick.
    pub(super) fn of(record: &'a Record, clock: BootClock, keys: &Redactor) -> Option<Self> {
        Some(Self {
            schema: EVENT_SCHEMA,
            time: record.time().map(|time| clock.timestamp(time)),
            event: event(record, clock, keys)?,
        })
    }
}

fn event<'a>(record: &'a Record, clock: BootClock, keys: &Redactor) -> Option<Event<'a>> {
    let mount = |of: MountKey| Mount {
        key: keys.number(of.address),
        id: of.id,
        unique_id: of.unique,
    };
    Some(match record {
        Record::Start(start) => Event::Start {
            version: &start.version,
            kernel: &start.kernel,
            tier: start.tier,
            history: start.history,
        },
        Record::Umount(umount) => self::umount(umount, clock, umount.mount.map(mount)),
        Record::Opened(opened) => Event::Opened {
            file: keys.number(opened.file),
            mount: keys.number(opened.mount),
            dentry: keys.number(opened.dentry),
            by: &opened.by,
            fd: opened.fd,
            access: access(opened.flags),
            executed: opened.is_executed(),
        },
        Record::Closed(closed) => Event::Closed {
            file: keys.number(closed.file),
        },
        Record::Entered(entered) => Event::Entered {
            operation: entered.operation,
            pid: entered.pid,
            comm: &entered.comm,
            mount_namespace: entered.namespace,
            from: entered.from,
            container: entered.container.as_deref(),
        },
        Record::Named(named) => Event::Named {
            mount: keys.number(named.mount),
            dentry: keys.number(named.dentry),
            path: &named.path,
            path_base64: named.path.base64_if_lossy(),
            deleted: named.deleted,
        },
        Record::Snapshot(sample) => {
            let found = &sample.snapshot;
            let [count, count_after] = found.target.counts;
            Event::Snapshot {
                started: clock.timestamp(found.started),
                attempt: clock.timestamp(sample.attempt),
                mount: mount(sample.mount),
                count,
                count_after,
                children: found.target.children,
                copies: found.slots.len(),
                holders: found.references.iter().map(|found| &found.holder).collect(),
                candidates: found.candidates.iter().map(|found| &found.holder).collect(),
                gaps: &found.gaps,
            }
        }
        Record::Gone(gone) => Event::Gone {
            mount: mount(gone.mount),
        },
        Record::Refused(refused) => Event::Refused {
            cause: refused.cause,
            operation: refused.operation.name(),
            reason: refused.reason.name(),
            caller: &refused.caller,
            target: &refused.target,
            holders: &refused.holders,
            bystanders: &refused.bystanders,
        },
        Record::Detached(detached) => Event::Detached {
            cause: detached.cause,
            mount: mount(detached.mount),
            umount: clock.timestamp(detached.detached),
            caller: &detached.caller,
            target: &detached.target,
            count: detached.counted,
            holders: &detached.holders,
        },
        Record::Freed(freed) => Event::Freed { cause: freed.cause },
        Record::Slow(slow) => self::slow(slow, clock),
        Record::Lost(lost) => Event::Lost {
            losses: &lost.losses.0,
            noise: (lost.noise.iter())
                .map(|noise| Noise {
                    by: &noise.by,
                    losses: &noise.losses.0,
                })
                .collect(),
        },
        Record::End { .. } => Event::End,
        Record::Tick { .. } => return None,
    })
}

fn slow(slow: &Slow, clock: BootClock) -> Event<'_> {
    Event::Slow {
        cause: slow.cause,
        entered: clock.timestamp(slow.entered),
        flags: crate::incident::flag_names(slow.flags),
        caller: &slow.caller,
        target: &slow.target,
        result: slow.result.map(|(result, _)| result),
        returned: slow.result.map(|(_, time)| clock.timestamp(time)),
        ended: slow.ended.map(|time| clock.timestamp(time)),
        stacks: slow
            .stacks
            .iter()
            .map(|stack| Seen {
                functions: &stack.functions,
                looks: stack.looks,
                first: clock.timestamp(stack.first),
                last: clock.timestamp(stack.last),
            })
            .collect(),
    }
}

fn umount(umount: &Umount, clock: BootClock, mount: Option<Mount>) -> Event<'_> {
    Event::Umount {
        entered: clock.timestamp(umount.entered),
        checked: umount.checked.map(|time| clock.timestamp(time)),
        result: umount.ret,
        flags: crate::incident::flag_names(umount.flags),
        caller: &umount.caller,
        passed: umount.passed.as_ref(),
        mount,
        target: &umount.target,
        shown: umount.shown,
        remount: umount.remount,
        busy_check: umount.busy_check,
        compared: umount.compared.map(|(_, count)| count),
    }
}
