//! A FUSE server that speaks the raw protocol (uapi/linux/fuse.h) and leaves some requests unanswered.
//!
//! Its root has the files `file` and `second`; `never-read` and the directory `never-synced`: it does not answer their
//! read or sync, even if interrupted, until somebody looks up [`RELEASE_READS`]; `never-written`, whose writes it does
//! not answer; and `never-flushed`, which nobody can close. It answers the lookup of any other name only when that is
//! interrupted. A [`Disk`] has one more file. The mount is in no namespace.

use std::{
    ffi::CString,
    fs::File,
    io::{Read as _, Write as _},
    mem,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use crate::{holder::Skip, pause, process::ForkedChild};

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const FSYNCDIR: u32 = 30;
const INTERRUPT: u32 = 36;
/// `FUSE_PARALLEL_DIROPS`: a lookup that is not answered does not keep others from the directory.
const PARALLEL_DIROPS: u32 = 1 << 18;

/// Nodes; that of the root is 1.
const NODES: [(&[u8], u32); 7] = [
    (b"file\0", 2),
    (b"second\0", 3),
    (b"never-read\0", NEVER_READ),
    (b"never-flushed\0", NEVER_FLUSHED),
    (b"never-written\0", NEVER_WRITTEN),
    (b"never-synced\0", NEVER_SYNCED),
    (b"disk\0", DISK),
];
/// Its lookup makes all reads of `never-read` and syncs of `never-synced` fail.
pub const RELEASE_READS: &[u8] = b"release";
const NEVER_READ: u32 = 5;
const NEVER_FLUSHED: u32 = 6;
const DISK: u32 = 7;
const NEVER_SYNCED: u32 = 8;
const NEVER_WRITTEN: u32 = 9;
/// Bytes of a [`Disk`].
const DISK_SIZE: u32 = 4 << 20;
/// `FUSE_MIN_READ_BUFFER`, and more.
const BUFFER: usize = 1 << 17;

/// A server that does not serve yet, and the root of its mount.
#[derive(Debug)]
pub struct Connection {
    device: File,
    root: OwnedFd,
}

impl Connection {
    /// Mounts it; a [`Skip`] where there is no FUSE.
    pub fn new() -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        Self::of(device.map_err(|_| Skip::because("this kernel has no FUSE"))?)
    }

    /// Mounts it by a device that is already open.
    pub fn of(device: File) -> Result<Self> {
        let Ok(context) = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) else {
            return Err(Skip::because("this kernel has no FUSE").into());
        };
        for (option, value) in [
            ("source", "ebusy-scratch".to_owned()),
            ("fd", device.as_raw_fd().to_string()),
            ("rootmode", "40000".to_owned()),
            ("user_id", "0".to_owned()),
            ("group_id", "0".to_owned()),
        ] {
            let value = CString::new(value)?;
            fsconfig_set_string(context.as_fd(), option, value).with_context(|| option.to_owned())?;
        }
        fsconfig_create(context.as_fd()).context("fsconfig")?;
        let root = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .context("fsmount")?;
        Ok(Self { device, root })
    }

    /// Serves until the file system is gone.
    #[must_use]
    pub fn serve_in_thread(self) -> OwnedFd {
        let Self { device, root } = self;
        serve_apart(device, None);
        root
    }

    /// Serves until the child is killed: then all waiting calls fail. Call this while the process has one thread.
    pub fn serve_in_child(self) -> Result<(OwnedFd, ForkedChild)> {
        let Self { device, root } = self;
        let child = ForkedChild::spawn(0, || {
            serve(device, None);
            Ok(())
        })?;
        Ok((root, child))
    }
}

/// The backing store of a loop device's file: it delays every page that is written.
#[derive(Debug)]
pub struct Disk {
    millis: Arc<AtomicU64>,
    // Its mount.
    _root: OwnedFd,
}

impl Disk {
    /// Makes one with these contents, quick at first, and returns its file; a [`Skip`] where there is no FUSE. If this
    /// process has the file open while the disk is slow, children that it starts wait, because they close the file.
    pub fn new(contents: Vec<u8>) -> Result<(Self, File)> {
        let Connection { device, root } = Connection::new()?;
        let millis = Arc::new(AtomicU64::new(0));
        let medium = Medium {
            contents,
            millis: Arc::clone(&millis),
        };
        serve_apart(device, Some(medium));
        let file = openat(&root, "disk", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("disk")?;
        let disk = Self { millis, _root: root };
        Ok((disk, file.into()))
    }

    /// Sets the delay of each page from now on.
    pub fn take(&self, time: Duration) {
        self.millis.store(time.as_millis() as u64, Ordering::Relaxed);
    }
}

/// The data of a [`Disk`].
struct Medium {
    contents: Vec<u8>,
    millis: Arc<AtomicU64>,
}

impl Medium {
    /// The answer to a read or a write (`struct fuse_read_in`, `fuse_write_in`): the offset is at 8, the length at 16,
    /// the written data at 40.
    fn answer(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        let body = request.body;
        let offset = u64::from_ne_bytes(body.get(8..16)?.try_into().ok()?) as usize;
        let length = u32::from_ne_bytes(body.get(16..20)?.try_into().ok()?) as usize;
        let end = offset.saturating_add(length).min(self.contents.len());
        let place = self.contents.get_mut(offset..end)?;
        if request.operation == READ {
            return Some(with_header(request.number, 0, place));
        }
        let time = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        pause::takes(time, "the disk takes that long for a page");
        place.copy_from_slice(body.get(40..40 + place.len())?);
        let mut written = vec![0; 8];
        put(&mut written, 0, place.len() as u32);
        Some(with_header(request.number, 0, &written))
    }
}

/// Serves in a thread with a descriptor table of its own. Otherwise a process that is killed while it waits for its own
/// server would never end: its files are closed when its last thread ends, and that thread waits for the device to be
/// closed.
fn serve_apart(device: File, medium: Option<Medium>) {
    let number = device.as_raw_fd().cast_unsigned();
    let (ready, apart) = mpsc::channel();
    thread::spawn(move || {
        // SAFETY: this thread uses no descriptor but the device, of which it has its own from here on.
        let own = unsafe {
            libc::unshare(libc::CLONE_FILES) == 0
                && (number == 0 || libc::close_range(0, number - 1, 0) == 0)
                && libc::close_range(number + 1, u32::MAX, 0) == 0
        };
        let _ = ready.send(own);
        if own {
            serve(device, medium);
        } else {
            mem::forget(device);
        }
    });
    assert_eq!(apart.recv(), Ok(true), "a thread with files of its own");
    // SAFETY: the thread has its own; in this table nobody else owns it.
    unsafe { libc::close(number.cast_signed()) };
}

fn serve(mut device: File, mut medium: Option<Medium>) {
    let mut buffer = vec![0; BUFFER];
    // The unanswered requests: reads of `never-read`...
    let mut deaf = Vec::new();
    loop {
        let answer = match device.read(&mut buffer) {
            Ok(length) => Request::parse(&buffer[..length]).and_then(|request| {
                if matches!(
                    (request.operation, request.file()),
                    (READ, NEVER_READ) | (FSYNCDIR, NEVER_SYNCED)
                ) {
                    deaf.push(request.number);
                }
                if request.operation == LOOKUP && request.body.strip_suffix(b"\0") == Some(RELEASE_READS) {
                    deaf.push(request.number);
                    for number in deaf.drain(..) {
                        let _ = device.write_all(&with_header(number, -libc::ENOENT, &[]));
                    }
                    return None;
                }
                match &mut medium {
                    Some(medium) if request.file() == DISK && matches!(request.operation, READ | WRITE) => {
                        medium.answer(&request)
                    }
                    _ => request.answer(&deaf),
                }
            }),
            // One was withdrawn before it was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            // It is unmounted.
            Err(_) => return,
        };
        if let Some(answer) = answer {
            // A request that was withdrawn meanwhile needs no answer.
            let _ = device.write_all(&answer);
        }
    }
}

/// `struct fuse_in_header` and what follows.
struct Request<'a> {
    operation: u32,
    number: u64,
    node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let half = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            operation: half(4)?,
            number: word(8)?,
            node: word(16)?,
            body: bytes.get(40..)?,
        })
    }

    fn file(&self) -> u32 {
        u32::try_from(self.node).unwrap_or(0)
    }

    /// Makes the answer with its header; `None` if there is no answer.
    fn answer(&self, deaf: &[u64]) -> Option<Vec<u8>> {
        let body = match self.operation {
            INIT => {
                // The version, and as much as the kernel reads ahead.
                let mut init = vec![0; 64];
                put(&mut init, 0, 7);
                put(&mut init, 4, 31);
                init[8..12].copy_from_slice(self.body.get(8..12)?);
                put(&mut init, 12, PARALLEL_DIROPS);
                put(&mut init, 20, 4096);
                init
            }
            LOOKUP => {
                let (_, node) = *NODES.iter().find(|(name, _)| *name == self.body)?;
                // node, generation, entry_valid, attr_valid, their nanoseconds
                let mut entry = vec![0; 40];
                put(&mut entry, 0, node);
                put(&mut entry, 16, 3600);
                put(&mut entry, 24, 3600);
                entry.extend(attributes(node));
                entry
            }
            GETATTR => {
                let mut valid = vec![0; 16];
                put(&mut valid, 0, 3600);
                valid.extend(attributes(self.node as u32));
                valid
            }
            OPEN | OPENDIR => vec![0; 16],
            READ if self.file() == NEVER_READ => return None,
            READ if self.file() == NEVER_WRITTEN => vec![0; 4096],
            WRITE if self.file() == NEVER_WRITTEN => return None,
            FSYNCDIR if self.file() == NEVER_SYNCED => return None,
            FLUSH if self.file() == NEVER_FLUSHED => return None,
            FLUSH | FSYNC | RELEASE | RELEASEDIR => Vec::new(),
            INTERRUPT => {
                let number = u64::from_ne_bytes(self.body.get(..8)?.try_into().ok()?);
                return (!deaf.contains(&number)).then(|| with_header(number, -libc::EINTR, &[]));
            }
            _ => return Some(with_header(self.number, -libc::ENOSYS, &[])),
        };
        Some(with_header(self.number, 0, &body))
    }
}

/// `struct fuse_out_header`: length, error, number.
fn with_header(number: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; 16];
    put(&mut answer, 0, 16 + body.len() as u32);
    answer[4..8].copy_from_slice(&error.to_ne_bytes());
    answer[8..16].copy_from_slice(&number.to_ne_bytes());
    answer.extend_from_slice(body);
    answer
}

/// `struct fuse_attr`: a directory, or a file of a page; a disk is an image of [`crate::ext2`].
fn attributes(node: u32) -> Vec<u8> {
    let size = if node == DISK { DISK_SIZE } else { 4096 };
    let (mode, links) = match node {
        1 | NEVER_SYNCED => (0o40755, 2),
        _ => (0o100_644, 1),
    };
    let mut attributes = vec![0; 88];
    put(&mut attributes, 0, node);
    put(&mut attributes, 8, size);
    put(&mut attributes, 16, size / 512);
    put(&mut attributes, 60, mode);
    put(&mut attributes, 64, links);
    put(&mut attributes, 80, 4096);
    attributes
}

fn put(piece: &mut [u8], at: usize, number: u32) {
    piece[at..at + 4].copy_from_slice(&number.to_ne_bytes());
}
