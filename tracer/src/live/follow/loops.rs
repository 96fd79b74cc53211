//! Loop devices that were told to give up their file (`LOOP_CLR_FD`). That succeeds, and where anybody else has the device
//! open, the kernel does it only when the last one closes it (drivers/block/loop.c `loop_clr_fd`, 3.7 to 7.2; from 6.11
//! on whoever else has it). Those that are there after a while are looked at once, and followed until they are free.

use std::time::{Duration, Instant};

use super::{follower::Follower, operations::device_target};
use crate::{
    identity::boot_nanos,
    live::{
        context::Context,
        device::Bound,
        refused::{Asked, text},
    },
    model::Process,
    stream::{Freed, RawOperation, Record, Refused},
    watchdog::Step,
};

/// The caller closes the device as well, and udev opens whatever changes for a moment: who is there after that keeps it.
const GRACE: Duration = Duration::from_millis(300);
/// Devices that are followed at the most.
const FOLLOWED_MAX: usize = 256;
/// Calls that wait for their look at the most.
const FRESH_MAX: usize = 1024;

/// What is known of them.
#[derive(Debug, Default)]
pub(in crate::live) struct LoopDevices {
    fresh: Vec<Fresh>,
    followed: Vec<Followed>,
    /// Those that were too many.
    pub(in crate::live) skipped: u64,
}

/// A call that is not looked at yet.
#[derive(Debug)]
struct Fresh {
    asked: Asked,
    name: String,
    bound: Bound,
    returned: u64,
    source: u64,
    caller: Process,
    since: Instant,
}

#[derive(Debug)]
struct Followed {
    cause: u64,
    name: String,
    bound: Bound,
}

impl Followed {
    fn is(&self, fresh: &Fresh) -> bool {
        self.name == fresh.name && self.bound == fresh.bound
    }
}

fn is_there(name: &str, bound: &Bound) -> bool {
    Bound::of(name).as_ref() == Some(bound)
}

impl Follower for LoopDevices {
    fn step(&self) -> Step {
        Step::Loops
    }

    /// A loop device was told to give up its file.
    fn operation(&mut self, context: &mut Context, asked: &Asked, raw: &RawOperation) {
        if !asked.operation.is_pending() {
            return;
        }
        let path = asked.name();
        let name = path
            .strip_prefix(b"/dev/")
            .and_then(|name| str::from_utf8(name).ok());
        let Some((name, bound)) = name.and_then(|name| Some((name.to_owned(), Bound::of(name)?))) else {
            return;
        };
        if self.fresh.len() >= FRESH_MAX {
            self.skipped += 1;
            return;
        }
        let caller = context.complete(&raw.caller, raw.start);
        self.fresh.push(Fresh {
            asked: asked.clone(),
            name,
            bound,
            returned: raw.time,
            source: raw.source,
            caller,
            since: Instant::now(),
        });
    }

    /// Looks at those that should be free by now, and tells which of the others have become so.
    fn tick(&mut self, context: &mut Context, _end: bool) {
        let now = Instant::now();
        let (due, later): (Vec<Fresh>, Vec<Fresh>) = std::mem::take(&mut self.fresh)
            .into_iter()
            .partition(|fresh| now - fresh.since >= GRACE);
        self.fresh = later;
        for fresh in due {
            if is_there(&fresh.name, &fresh.bound) && Bound::is_given_up(&fresh.name) {
                self.stays(context, fresh);
            }
        }
        let free: Vec<Followed> = self
            .followed
            .extract_if(.., |followed| !is_there(&followed.name, &followed.bound))
            .collect();
        for followed in free {
            context.push(Record::Freed(Freed {
                cause: followed.cause,
                time: boot_nanos(),
            }));
        }
    }

    /// No call that had returned by then waits for its look.
    fn has_caught_up(&self, _context: &Context, asked: u64) -> bool {
        self.fresh.iter().all(|fresh| fresh.returned > asked)
    }
}

impl LoopDevices {
    fn stays(&mut self, context: &mut Context, fresh: Fresh) {
        let known = self.followed.iter().find(|followed| followed.is(&fresh));
        let known = known.map(|followed| followed.cause);
        if known.is_none() && self.followed.len() >= FOLLOWED_MAX {
            self.skipped += 1;
            return;
        }
        let (found, _) = context.look_for(&fresh.asked, true);
        let (path, file) = (fresh.asked.name(), &fresh.bound.file);
        let shown = context.is_operation_shown(&text(&path), &fresh.caller, &found)
            || context.is_shown(&text(file), &fresh.caller);
        // What was found had it still, if it is still there.
        let Some(device) = fresh.asked.opened_device() else {
            return;
        };
        if !shown || !is_there(&fresh.name, &fresh.bound) {
            return;
        }
        let cause = known.unwrap_or_else(|| context.number());
        let target = device_target(&path, fresh.asked.namespace, device, Some(file.clone()));
        if known.is_none() {
            self.followed.push(Followed {
                cause,
                name: fresh.name,
                bound: fresh.bound,
            });
        }
        context.push(Record::Refused(Box::new(Refused {
            cause,
            operation: fresh.asked.operation,
            returned: fresh.returned,
            source: fresh.source,
            caller: fresh.caller,
            target,
            reason: found.reason,
            holders: found.holders,
            bystanders: found.bystanders,
            looked: boot_nanos(),
        })));
    }
}
