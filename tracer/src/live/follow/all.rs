//! All followers.

use super::{
    detached::DetachedMounts, follower::Follower, loops::LoopDevices, operations::RefusedOperations,
    slow::SlowUmounts, umounts::RefusedUmounts,
};

/// Those of a run.
#[derive(Debug, Default)]
pub(in crate::live) struct Followers {
    pub(in crate::live) umounts: RefusedUmounts,
    operations: RefusedOperations,
    pub(in crate::live) loops: LoopDevices,
    detached: DetachedMounts,
    slow: SlowUmounts,
}

impl Followers {
    /// In the order in which they write to the stream.
    pub(in crate::live) fn all(&self) -> [&dyn Follower; 5] {
        [
            &self.umounts,
            &self.operations,
            &self.loops,
            &self.detached,
            &self.slow,
        ]
    }

    /// The same, to be asked for something.
    pub(in crate::live) fn all_mut(&mut self) -> [&mut dyn Follower; 5] {
        [
            &mut self.umounts,
            &mut self.operations,
            &mut self.loops,
            &mut self.detached,
            &mut self.slow,
        ]
    }
}
