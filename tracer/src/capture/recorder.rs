//! Records a stream into a folder, while it comes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    disk::Disk,
    folder::{Folder, Limits},
    format::Header,
    queue::Queue,
};
use crate::{
    confine,
    text::say::say,
    {render::escape, stream::Record, watchdog},
};

/// How long records wait for a block to fill.
pub(super) const FLUSH: Duration = Duration::from_millis(400);
/// How often a quiet run says that it goes on, boot clock, ns.
const HEARTBEAT: u64 = 10_000_000_000;
/// How long the disk may take for the last of it.
const PATIENCE: Duration = Duration::from_secs(10);

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
    more: Condvar,
    standing: Mutex<Standing>,
}

impl Shared {
    fn of(size: u64) -> Self {
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

/// A recording.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    path: PathBuf,
    /// Closed when the last of it is on the disk; gives the folder back.
    done: mpsc::Receiver<Folder>,
    /// A tick that nothing followed yet.
    tick: Option<u64>,
    was_tick: bool,
    heartbeat: u64,
    closed: bool,
}

impl Recorder {
    /// Begins to record; `header` is of the run.
    pub fn start(destination: Destination, header: Header) -> Result<Self> {
        let path = destination.folder.path().to_owned();
        watchdog::records_to(&path);
        let shared = Arc::new(Shared::of(destination.limits.max_size));
        let (send, done) = mpsc::channel();
        let disk = Disk::new(destination, header, Arc::clone(&shared)).context("preparing the capture")?;
        thread::Builder::new()
            .name("ebusy-record".to_owned())
            .spawn(move || {
                confine::write_only_below(&[disk.folder()]);
                // Nobody may be there any more who wants it.
                let _ = send.send(disk.run());
            })
            .context("starting the thread that writes the capture")?;
        Ok(Self {
            shared,
            path,
            done,
            tick: None,
            was_tick: false,
            heartbeat: 0,
            closed: false,
        })
    }

    /// Where it goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next record. While it is quiet (no incident is open) only the last of several ticks in a row means
    /// anything, and is recorded: a host where nothing happens costs nearly nothing.
    pub fn push(&mut self, record: &Record, quiet: bool) {
        match *record {
            // It is in the header of each segment.
            Record::Start(_) => {}
            Record::Tick { time } if quiet && self.was_tick && time < self.heartbeat + HEARTBEAT => {
                self.tick = Some(time);
            }
            Record::Tick { time } => {
                (self.tick, self.was_tick, self.heartbeat) = (None, true, time);
                self.enter(record);
            }
            _ => {
                if let Some(time) = self.tick.take() {
                    self.enter(&Record::Tick { time });
                }
                self.was_tick = false;
                self.enter(record);
            }
        }
    }

    fn enter(&self, record: &Record) {
        if self.shared.queue().push(record) {
            self.shared.more.notify_one();
        }
    }

    /// Begins a new segment.
    pub fn reopen(&self) {
        self.shared.queue().reopen = true;
        self.shared.more.notify_one();
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = self.shared.standing().clone();
        standing.not_written = self.shared.queue().not_written_total();
        standing
    }

    /// Writes what is left, and closes the segment.
    pub fn close(&mut self) {
        let _ = self.end();
    }

    /// Closes it, and removes what was recorded.
    pub fn discard(mut self) {
        let folder = self.end();
        if let Some(Err(error)) = folder.map(Folder::remove) {
            log::warn!("{}: {error}", self.path.display());
        }
    }

    fn end(&mut self) -> Option<Folder> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        if let Some(time) = self.tick.take() {
            self.enter(&Record::Tick { time });
        }
        self.shared.queue().closing = true;
        self.shared.more.notify_one();
        let folder = self.done.recv_timeout(PATIENCE).ok();
        if folder.is_none() {
            say!(
                "ebusy: {}: the disk did not take the last records within {PATIENCE:?}",
                shown(&self.path)
            );
        }
        folder
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close();
    }
}

/// A path in a sentence.
pub(super) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
