//! Records a stream into a folder, while it comes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    disk::Disk,
    folder::Folder,
    format::Header,
    names::shown,
    shared::{Destination, Shared, Standing},
};
use crate::{confine, stream::Record, text::say::say, watchdog};

/// How often a quiet run says that it goes on, boot clock, ns.
const HEARTBEAT: u64 = 10_000_000_000;
/// How long the disk may take for the last of it.
const PATIENCE: Duration = Duration::from_secs(10);

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
