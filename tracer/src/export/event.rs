//! A record as a line of JSON: `ebusy.event/1`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    identity::BootClock,
    kernel::access,
    model::{Container, Holder, Process, Target, Text, Timestamp},
    report::Redactor,
    stream::{MountKey, Record, Slow, Umount},
};

/// The value of `schema`.
pub const EVENT_SCHEMA: &str = "ebusy.event/1";

/// A mount: its ids, and what is the same for it throughout an export.
#[derive(Debug, Serialize)]
pub(super) struct Mount {
    key: String,
    #[serde(rename = "mount_id")]
    id: u32,
    unique_id: Option<u64>,
}

/// What happened, by `type`.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    Start {
        version: &'a str,
        kernel: &'a str,
        tier: &'a str,
        history: bool,
    },
    Umount {
        entered: Timestamp,
        /// Inside of the kernel, where the tier sees it.
        checked: Option<Timestamp>,
        /// 0, or a negative errno.
        result: i64,
        flags: Vec<String>,
        caller: &'a Process,
        passed: Option<&'a Text>,
        mount: Option<Mount>,
        target: &'a Target,
        shown: bool,
        remount: bool,
        busy_check: Option<bool>,
        /// The count that the kernel compared.
        compared: Option<i32>,
    },
    Opened {
        file: String,
        mount: String,
        dentry: String,
        by: &'a Process,
        fd: Option<u32>,
        access: &'a str,
        executed: bool,
    },
    Closed {
        file: String,
    },
    Entered {
        operation: &'a str,
        pid: u32,
        comm: &'a Text,
        mount_namespace: u32,
        /// Where it was before, if that is known.
        from: Option<u32>,
        /// Whose root file system the namespace has.
        container: Option<&'a Container>,
    },
    Named {
        mount: String,
        dentry: String,
        path: &'a Text,
        #[serde(skip_serializing_if = "Option::is_none")]
        path_base64: Option<String>,
        deleted: bool,
    },
    Snapshot {
        started: Timestamp,
        attempt: Timestamp,
        mount: Mount,
        count: Option<i32>,
        count_after: Option<i32>,
        children: u64,
        copies: usize,
        holders: Vec<&'a Holder>,
        candidates: Vec<&'a Holder>,
        gaps: &'a [String],
    },
    Gone {
        mount: Mount,
    },
    Refused {
        cause: u64,
        operation: &'a str,
        reason: &'a str,
        caller: &'a Process,
        target: &'a Target,
        holders: &'a [Holder],
        bystanders: &'a [Holder],
    },
    Detached {
        cause: u64,
        mount: Mount,
        umount: Timestamp,
        caller: &'a Process,
        target: &'a Target,
        count: Option<u64>,
        holders: &'a [Holder],
    },
    Freed {
        cause: u64,
    },
    Slow {
        cause: u64,
        entered: Timestamp,
        flags: Vec<String>,
        caller: &'a Process,
        target: &'a Target,
        result: Option<i64>,
        returned: Option<Timestamp>,
        ended: Option<Timestamp>,
        stacks: Vec<Seen<'a>>,
    },
    Lost {
        losses: &'a BTreeMap<String, u64>,
    },
    End,
}

/// Functions that a slow umount was seen in.
#[derive(Debug, Serialize)]
pub(super) struct Seen<'a> {
    functions: &'a [String],
    looks: u64,
    first: Timestamp,
    last: Timestamp,
}

/// A line.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    schema: &'static str,
    /// `null` for what has no time of its own: it became known between its neighbours.
    time: Option<Timestamp>,
    #[serde(flatten)]
    event: Event<'a>,
}

impl<'a> Line<'a> {
    /// The line of a record; none of one that only says that time passed.
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
            tier: start.tier.name(),
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
            operation: &entered.operation,
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
