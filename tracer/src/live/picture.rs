//! The last look at the mounts of all namespaces, the one before, what has left the tables between the two, and when the
//! next look is due.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{left::LeftMounts, mounts::MountsView};
use crate::{
    identity::{Containers, boot_nanos},
    kernel::Kernel,
};

/// How long a look is kept that was replaced, at the least: longer than an umount goes on after its mount has gone.
const BEFORE_AGE: Duration = Duration::from_secs(1);
/// A look at the mounts is not trusted for longer than this.
const AGE: Duration = Duration::from_secs(5);
/// After a look it rests for so many times what that took, between these two.
const REST: u32 = 4;
const REST_LEAST: Duration = Duration::from_millis(5);
const REST_MOST: Duration = Duration::from_secs(5);

/// The mounts as they were last seen.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) view: MountsView,
    /// A look before the last ones, and when it was replaced: a mount goes from the tables some time before the record of
    /// its umount is here, and there may be looks meanwhile.
    before: Option<(MountsView, Instant)>,
    /// When the last look began, and when it was over (boot clock, ns).
    from: u64,
    until: u64,
    stale: bool,
    next: Instant,
    read: Instant,
    pub(super) left: LeftMounts,
    /// Mount namespaces of which not all mounts are looked at, by user: the most there were.
    pub(super) crowded: BTreeMap<u32, u64>,
}

impl Picture {
    /// The first look, which is just over.
    pub(super) fn new(view: MountsView) -> Self {
        let now = Instant::now();
        Self {
            view,
            before: None,
            from: 0,
            until: boot_nanos(),
            stale: false,
            next: now,
            read: now,
            left: LeftMounts::default(),
            crowded: BTreeMap::new(),
        }
    }

    /// Something has changed since.
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// An old look may miss what no hook sees (7.2 inlined the one for new mounts).
    pub(super) fn grow_old(&mut self) {
        self.stale |= self.read.elapsed() > AGE;
    }

    /// Whether a look is wanted, and due.
    pub(super) fn wants_look(&self) -> bool {
        self.stale && self.is_rested()
    }

    /// Whether another look may be taken without resting for too short a time.
    pub(super) fn is_rested(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Whether nothing that had happened by then waits for a look.
    pub(super) fn has_caught_up(&self, asked: u64) -> bool {
        !self.stale || self.from > asked
    }

    /// The look before the last ones, for what began before the last one was over.
    pub(super) fn before(&self, entered: u64) -> Option<&MountsView> {
        let before = self.before.as_ref().filter(|_| entered <= self.until);
        before.map(|(view, _)| view)
    }

    /// Looks again.
    pub(super) fn refresh(&mut self, kernel: Kernel<'_>, task: u64, containers: &Containers) {
        let began = Instant::now();
        self.from = boot_nanos();
        let view = MountsView::again(kernel, task, &self.view);
        for (user, namespaces) in &view.crowded {
            let most = self.crowded.entry(*user).or_default();
            *most = (*most).max(*namespaces);
        }
        let before = std::mem::replace(&mut self.view, view);
        self.left.note(kernel, containers, &before, &self.view);
        self.until = boot_nanos();
        let is_old = |(_, replaced): &(MountsView, Instant)| replaced.elapsed() > BEFORE_AGE;
        if self.before.as_ref().is_none_or(is_old) {
            self.before = Some((before, began));
        }
        self.stale = false;
        self.read = began;
    }

    /// The last look, with all that hangs on it, took so long.
    pub(super) fn rest_after(&mut self, took: Duration) {
        self.next = Instant::now() + (took * REST).clamp(REST_LEAST, REST_MOST);
    }
}
