//! An io_uring, by its raw system calls: just a ring that keeps files, by itself or by its requests.

use std::{
    ffi::{CStr, c_long},
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Debug, Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    other: [u32; 7],
    submissions: Offsets,
    completions: Completions,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Debug, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    rest: [u32; 3],
}

/// `struct io_cqring_offsets`; the kernel has them in the mapping of the submissions as well (Linux 5.4 on).
#[repr(C)]
#[derive(Debug, Default)]
struct Completions {
    head: u32,
    tail: u32,
    rest: [u32; 8],
}

/// `IORING_SETUP_IOPOLL`.
const SETUP_IOPOLL: u32 = 1;
/// `IORING_REGISTER_FILES`.
const REGISTER_FILES: c_long = 2;
/// `IORING_REGISTER_IOWQ_MAX_WORKERS`; Linux 5.15 on, and stable 5.10.
const REGISTER_MAX_WORKERS: c_long = 19;
/// `IORING_OFF_SQ_RING`.
const SQ_RING: u64 = 0;
/// `IORING_OFF_SQES`.
const SQ_ENTRIES: u64 = 0x1000_0000;
/// `IORING_OP_OPENAT`.
const OP_OPENAT: u8 = 18;
/// `IORING_OP_READ`.
const OP_READ: u8 = 22;
/// `IORING_OP_WRITE`.
const OP_WRITE: u8 = 23;
/// `IOSQE_ASYNC`.
const ASYNC: u8 = 1 << 4;

/// A ring.
#[derive(Debug)]
pub struct Ring {
    ring: OwnedFd,
    params: Params,
}

impl Ring {
    /// Makes one; `None` if the kernel does not have or allow it.
    pub fn new() -> io::Result<Option<Self>> {
        Self::set_up(Params::default())
    }

    /// Makes one for direct I/O without completion events: a waiter polls the device.
    pub fn polled() -> io::Result<Option<Self>> {
        Self::set_up(Params {
            flags: SETUP_IOPOLL,
            ..Params::default()
        })
    }

    fn set_up(mut params: Params) -> io::Result<Option<Self>> {
        // SAFETY: the parameters are as large as the kernel's.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1 as c_long, &raw mut params) };
        if fd >= 0 {
            // SAFETY: the call has just opened it.
            let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            return Ok(Some(Self { ring, params }));
        }
        let error = io::Error::last_os_error();
        match Errno::from_io_error(&error) {
            Some(Errno::NOSYS | Errno::PERM) => Ok(None),
            _ => Err(error),
        }
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> u32 {
        self.ring.as_raw_fd() as u32
    }

    /// Registers a file.
    pub fn register(&self, file: &File) -> io::Result<()> {
        self.register_words(REGISTER_FILES, &[file.as_raw_fd().cast_unsigned()])
    }

    /// Allows one worker for work that ends soon, as the kernel has it, and one for other work; `false` where their
    /// number cannot be limited.
    pub fn allow_one_worker(&self) -> io::Result<bool> {
        match self.register_words(REGISTER_MAX_WORKERS, &[1, 1]) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn register_words(&self, what: c_long, words: &[u32]) -> io::Result<()> {
        // The kernel returns the old limits in it.
        let mut words = words.to_vec();
        // SAFETY: the array is as long as is said, and our own.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                c_long::from(self.ring.as_raw_fd()),
                what,
                words.as_mut_ptr(),
                words.len() as c_long,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Begins to read from a file, and does not wait; the request keeps the file. A worker does it, if requested.
    /// Returns true if it is already done.
    pub fn read(&self, file: BorrowedFd<'_>, buffer: &'static mut [u8], by_worker: bool) -> io::Result<bool> {
        let mut request = [0_u8; 64];
        request[0] = OP_READ;
        request[1] = if by_worker { ASYNC } else { 0 };
        request[4..8].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        // The offset: where the file is.
        request[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
        request[16..24].copy_from_slice(&(buffer.as_mut_ptr() as u64).to_ne_bytes());
        request[24..28].copy_from_slice(&(buffer.len() as u32).to_ne_bytes());
        self.submit(&request)
    }

    /// Begins to write to the start of a file, and does not wait; the request keeps the file. Returns true if it is
    /// already done.
    pub fn write(&self, file: BorrowedFd<'_>, buffer: &'static [u8]) -> io::Result<bool> {
        let mut request = [0_u8; 64];
        request[0] = OP_WRITE;
        request[4..8].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        request[16..24].copy_from_slice(&(buffer.as_ptr() as u64).to_ne_bytes());
        request[24..28].copy_from_slice(&(buffer.len() as u32).to_ne_bytes());
        self.submit(&request)
    }

    /// Lets a worker open a file to read, and does not wait. Returns true if it is already done.
    pub fn open_by_worker(&self, path: &'static CStr) -> io::Result<bool> {
        let mut request = [0_u8; 64];
        request[0] = OP_OPENAT;
        request[1] = ASYNC;
        request[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
        request[16..24].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
        request[28..32].copy_from_slice(&libc::O_RDONLY.to_ne_bytes());
        self.submit(&request)
    }

    /// Hands the kernel one request; returns true if it is already done. Its buffers must stay alive.
    fn submit(&self, request: &[u8; 64]) -> io::Result<bool> {
        let map = |length, offset| {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: the kernel chooses an address where nothing else is.
            unsafe {
                mmap(
                    ptr::null_mut(),
                    length,
                    access,
                    MapFlags::SHARED,
                    &self.ring,
                    offset,
                )
            }
        };
        let offsets = &self.params.submissions;
        let length = offsets.array as usize + 4 * self.params.sq_entries as usize;
        let ring = map(length, SQ_RING)?.cast::<u32>();
        let entry = map(64, SQ_ENTRIES)?.cast::<u8>();
        // SAFETY: within the mapping, which is there until the end.
        let completed = unsafe { AtomicU32::from_ptr(ring.add(self.params.completions.tail as usize / 4)) };
        let before = completed.load(Ordering::Acquire);
        // SAFETY: these are within the mappings, the kernel reads them in the call below only. A ring has one entry, and
        // the kernel is done with what was in it when a call ends.
        unsafe {
            ptr::copy_nonoverlapping(request.as_ptr(), entry, request.len());
            ring.add(offsets.array as usize / 4).write_volatile(0);
            let tail = AtomicU32::from_ptr(ring.add(offsets.tail as usize / 4));
            tail.fetch_add(1, Ordering::Release);
        }
        // SAFETY: no memory is passed.
        let submitted = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                c_long::from(self.ring.as_raw_fd()),
                1 as c_long,
                0 as c_long,
                0 as c_long,
                ptr::null::<u8>(),
                0 as c_long,
            )
        };
        let is_done = completed.load(Ordering::Acquire) != before;
        // The mapping keeps the ring. SAFETY: these are the mappings from above, and nobody has a pointer into them any
        // more.
        unsafe {
            munmap(ring.cast(), length)?;
            munmap(entry.cast(), 64)?;
        }
        match submitted {
            1 => Ok(is_done),
            0.. => Err(io::Error::other("nothing was submitted")),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Maps it and closes its descriptor: the mapping, which stays until the process ends, keeps the ring.
    pub fn into_mapping(self) -> io::Result<()> {
        // SAFETY: the kernel chooses an address where nothing else is; nobody uses the memory.
        unsafe {
            mmap(
                ptr::null_mut(),
                64,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &self.ring,
                SQ_RING,
            )
        }?;
        Ok(())
    }
}
