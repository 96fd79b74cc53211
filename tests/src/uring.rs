//! An io_uring, by its raw system calls: no more than a ring that keeps files.

use std::{
    ffi::c_long,
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
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
    other: [u32; 8],
    submissions: Offsets,
    completions: [u32; 10],
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

/// `IORING_REGISTER_FILES`.
const REGISTER_FILES: c_long = 2;
/// `IORING_OFF_SQ_RING`.
const SQ_RING: u64 = 0;
/// `IORING_OFF_SQES`.
const SQ_ENTRIES: u64 = 0x1000_0000;
/// `IORING_OP_READ`.
const OP_READ: u8 = 22;
/// `IOSQE_ASYNC`.
const ASYNC: u8 = 1 << 4;

/// A ring.
#[derive(Debug)]
pub struct Ring {
    ring: OwnedFd,
    params: Params,
}

impl Ring {
    /// Makes one; `None` where the kernel has none, or does not allow it.
    pub fn new() -> io::Result<Option<Self>> {
        let mut params = Params::default();
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
        let files = [file.as_raw_fd()];
        // SAFETY: the array is as long as is said.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                c_long::from(self.ring.as_raw_fd()),
                REGISTER_FILES,
                files.as_ptr(),
                files.len() as c_long,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Begins to read from a file, and does not wait; the request keeps the file. A worker does it, if that is wanted.
    pub fn read(&self, file: BorrowedFd<'_>, buffer: &'static mut [u8], by_worker: bool) -> io::Result<()> {
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
        let mut request = [0_u8; 64];
        request[0] = OP_READ;
        request[1] = if by_worker { ASYNC } else { 0 };
        request[4..8].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        // The offset: where the file is.
        request[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
        request[16..24].copy_from_slice(&(buffer.as_mut_ptr() as u64).to_ne_bytes());
        request[24..28].copy_from_slice(&(buffer.len() as u32).to_ne_bytes());
        // SAFETY: these are within the mappings, the kernel reads them in the call below only; the ring is new, so that
        // its first entry is free.
        unsafe {
            ptr::copy_nonoverlapping(request.as_ptr(), entry, request.len());
            ring.add(offsets.array as usize / 4).write_volatile(0);
            ring.add(offsets.tail as usize / 4).write_volatile(1);
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
        // What is mapped keeps the ring.
        // SAFETY: these are the mappings from above, and nobody has a pointer into them any more.
        unsafe {
            munmap(ring.cast(), length)?;
            munmap(entry.cast(), 64)?;
        }
        match submitted {
            1 => Ok(()),
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
