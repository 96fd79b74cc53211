//! The folder of a capture: who may write there, what is in it, and how much it may be.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, openat, unlinkat},
    io::Errno,
};

use super::{
    format::{Preamble, preamble},
    names::{PREFIX, SUFFIX, segment_number, shown},
    place,
    segment::Segment,
};
use crate::{
    identity::{boot_nanos, mount_id},
    model::Timestamp,
    watchdog::{self, Step},
};

/// The file that a recorder locks; it is no part of the capture.
const LOCK: &str = "lock";
/// What that file begins with.
const LOCKED_BY: &str = "ebusy, pid ";
/// What that file takes at the most.
const LOCK_SIZE: u64 = 256;

/// How much a folder may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its files.
    pub max_size: u64,
    /// Age of its oldest record.
    pub max_age: Option<Duration>,
    /// Bytes after which a new segment is begun.
    pub segment_size: u64,
    /// Time after which a new segment is begun.
    pub segment_age: Duration,
}

impl Limits {
    /// Limits of a folder, in segments of which there are several: with the oldest goes an eighth of it at the most.
    #[must_use]
    pub fn new(max_size: u64, max_age: Option<Duration>) -> Self {
        const PART: u32 = 8;
        let hour = Duration::from_hours(1);
        Self {
            max_size,
            max_age,
            segment_size: (max_size / u64::from(PART)).min(64 << 20),
            segment_age: max_age.map_or(hour, |age| (age / PART).clamp(Duration::from_secs(1), hour)),
        }
    }
}

/// A segment that is not written to any more.
#[derive(Debug)]
struct Stored {
    name: String,
    length: u64,
    /// When it was begun, boot clock, ns; negative where that was before this boot.
    begun: i64,
}

/// A folder that is ours to write to.
#[derive(Debug)]
pub struct Folder {
    directory: OwnedFd,
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    stored: VecDeque<Stored>,
    next: u64,
    removed: u64,
}

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) length: u64,
    /// When it was begun, boot clock, ns.
    pub(super) begun: u64,
}

impl Folder {
    /// Makes it if it is not there, with 0700, and locks it. What is looked up is looked up now: the process may enter
    /// another mount namespace later.
    pub fn open(path: &Path) -> Result<Self> {
        let _step = watchdog::within(Step::Opening, path.as_os_str().as_encoded_bytes());
        let shown = shown(path);
        let directory =
            place::open_folder(path).with_context(|| format!("a capture cannot be in {shown}"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("opening {shown}/{LOCK}"))?;
        let mut lock = File::from(lock);
        place::regular(&lock).with_context(|| format!("{shown}/{LOCK}"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut who = String::new();
                let _ = lock.take(LOCK_SIZE).read_to_string(&mut who);
                let who = crate::render::escape(who.trim().as_bytes());
                bail!("{shown}: another recorder writes there: {who}; stop it, or use another folder");
            }
            Err(error) => return Err(error).with_context(|| format!("locking {shown}/{LOCK}")),
        }
        let uname = rustix::system::uname();
        let mut who = format!(
            "{LOCKED_BY}{}, on {}, since {}",
            std::process::id(),
            uname.nodename().to_string_lossy(),
            Timestamp::now().compact()
        );
        who.truncate(who.floor_char_boundary(LOCK_SIZE as usize - 1));
        // Only for who is refused: a full disk is no reason not to watch.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{who}"));
        let mut folder = Self {
            directory,
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            _lock: lock,
            stored: VecDeque::new(),
            next: 1,
            removed: 0,
        };
        let earlier = folder.earlier().with_context(|| format!("listing {shown}"))?;
        folder.next = earlier.last().map_or(1, |(number, _)| number.saturating_add(1));
        Ok(folder)
    }

    /// The folder itself.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The names of the segments of earlier runs, in order. They stay as they are, and limits are those of this run
    /// alone, unless they are taken over.
    fn earlier(&self) -> Result<Vec<(u64, String)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if let (Some(number), Ok(name)) = (segment_number(name), std::str::from_utf8(name)) {
                found.push((number, name.to_owned()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// From now on the segments of earlier runs are within the limits as well, and may go.
    pub fn take_over(&mut self) -> Result<()> {
        let now = Timestamp::now().as_nanos();
        for (_, name) in self.earlier()? {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = openat(&self.directory, &*name, flags, Mode::empty()) else {
                continue;
            };
            let file = File::from(file);
            if place::regular(&file).is_err() {
                continue;
            }
            let metadata = file.metadata()?;
            let written = metadata.modified().ok().and_then(|time| {
                let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
                i64::try_from(since.as_nanos()).ok()
            });
            let begun = Segment::open(&self.path.join(&name), BufReader::new(file))
                .ok()
                .and_then(|segment| segment.header.started)
                .map(Timestamp::as_nanos)
                .or(written);
            // The age is measured once, and from now on by the clock since boot: a step of the wall clock ages nothing.
            let age = begun.map_or(0, |begun| now.saturating_sub(begun).max(0));
            self.stored.push_back(Stored {
                name,
                length: metadata.len(),
                begun: (boot_nanos() as i64).saturating_sub(age),
            });
        }
        Ok(())
    }

    /// `mnt_id` of the mount that it is on; `None` before Linux 5.8.
    pub fn mount_id(&self) -> Result<Option<u32>> {
        mount_id(&self.directory).with_context(|| format!("looking at the folder {}", shown(&self.path)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of what is there from before, how much is beyond the limits and will be removed: segments and bytes.
    #[must_use]
    pub fn beyond(&self, limits: &Limits) -> (usize, u64) {
        let until = limits.max_age.map_or(i64::MIN, oldest);
        let mut size = self.size();
        let beyond: Vec<u64> = self
            .stored
            .iter()
            .take_while(|stored| {
                let is_beyond = stored.begun < until || size > limits.max_size;
                size = size.saturating_sub(stored.length);
                is_beyond
            })
            .map(|stored| stored.length)
            .collect();
        (beyond.len(), beyond.iter().sum())
    }

    /// Segments removed to keep the limits.
    pub(super) fn removed(&self) -> u64 {
        self.removed
    }

    /// Begins a segment.
    pub(super) fn create(&mut self) -> io::Result<Open> {
        let number = self.next;
        let time = Timestamp::now().compact();
        let name = format!("{PREFIX}{number:08}-{time}{SUFFIX}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &*name, flags, Mode::RUSR | Mode::WUSR)?;
        self.next += 1;
        Ok(Open {
            file: file.into(),
            name,
            number,
            length: 0,
            begun: boot_nanos(),
        })
    }

    /// Makes new and removed names last.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    /// A segment is not written to any more.
    pub(super) fn store(&mut self, open: Open) {
        self.stored.push_back(Stored {
            name: open.name,
            length: open.length,
            begun: open.begun as i64,
        });
    }

    /// A segment in which nothing was written is no segment.
    pub(super) fn forget(&mut self, open: &Open) {
        let _ = unlinkat(&self.directory, &*open.name, AtFlags::empty());
    }

    /// Bytes in the folder, less the segment that is being written.
    pub(super) fn size(&self) -> u64 {
        self.stored.iter().map(|stored| stored.length).sum::<u64>() + LOCK_SIZE
    }

    /// Segments that are not written to any more.
    pub(super) fn segments(&self) -> usize {
        self.stored.len()
    }

    /// Removes the oldest segment; false if there is none.
    pub(super) fn remove_oldest(&mut self) -> io::Result<bool> {
        let Some(oldest) = self.stored.front() else {
            return Ok(false);
        };
        match unlinkat(&self.directory, &*oldest.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.stored.pop_front();
        self.removed += 1;
        Ok(true)
    }

    /// Removes the segments that were begun too long ago.
    pub(super) fn remove_older(&mut self, age: Duration) -> io::Result<()> {
        let until = oldest(age);
        while self.stored.front().is_some_and(|oldest| oldest.begun < until) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// Removes all segments, and the folder if nothing else is in it.
    pub(crate) fn remove(mut self) -> io::Result<()> {
        while self.remove_oldest()? {}
        let _ = unlinkat(&self.directory, LOCK, AtFlags::empty());
        std::fs::remove_dir(&self.path)
    }
}

/// The boot clock so long ago, ns.
fn oldest(age: Duration) -> i64 {
    let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
    (boot_nanos() as i64).saturating_sub(age)
}

/// Whether a segment may be called so.
#[must_use]
pub fn is_segment_name(name: &[u8]) -> bool {
    segment_number(name).is_some()
}

/// Whether a file that is open for reading is a part of a folder of a capture: a segment, or what its recorder locks.
#[must_use]
pub fn is_part(file: &File) -> bool {
    let mut begin = [0; 16];
    let length = rustix::io::pread(file, &mut begin, 0).unwrap_or(0);
    let begin = begin.get(..length).unwrap_or_default();
    begin.starts_with(LOCKED_BY.as_bytes())
        || (length == begin.len() && preamble(begin) != Some(Preamble::Foreign))
}

impl Open {
    /// Writes at the end, all or nothing: what a full disk took of it is taken back.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        if let Err(error) = written {
            self.file.set_len(self.length)?;
            self.file.seek(io::SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}
