//! What the recorder and the thread that writes its capture share.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    folder::{Folder, Limits},
    queue::Queue,
};

/// How long records wait for a block to fill.
pub(super) const FLUSH: Duration = Duration::from_millis(400);
/// Where a capture goes.
#[derive(Debug)]
pub struct Destination {
    /// The folder, locked.
    pub folder: Folder,
    /// How much it may hold.
    pub limits: Limits,
    /// Rather nothing is recorded than in a place where that does harm.
    pub optional: bool,
}

/// How a recording stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Segments in the folder.
    pub segments: usize,
    /// Bytes of the folder.
    pub size: u64,
    /// Segments removed to keep the limits.
    pub removed: u64,
    /// Records that were not written.
    pub not_written: u64,
    /// Why nothing is written now.
    pub failing: Option<String>,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "recorded {} records, {} KiB in {} segments",
            self.records,
            self.size.div_ceil(1024),
            self.segments
        )?;
        if self.removed > 0 {
            write!(f, ", {} old segments removed", self.removed)?;
        }
        if self.not_written > 0 {
            write!(f, ", {} records not written", self.not_written)?;
        }
        if let Some(error) = &self.failing {
            write!(f, ", NOT RECORDING: {error}")?;
        }
        Ok(())
    }
}

/// What the threads share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    pub(super) more: Condvar,
    standing: Mutex<Standing>,
}

impl Shared {
    pub(super) fn of(size: u64) -> Self {
        Self {
            queue: Mutex::new(Queue::of(size)),
            ..Self::default()
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a block, or something else to do, or so much time has passed.
    pub(super) fn wait(&self, patience: Duration) {
        let idle = |queue: &mut Queue| !queue.has_full() && !queue.closing && !queue.reopen;
        let waited = self.more.wait_timeout_while(self.queue(), patience, idle);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
