//! AIO, by its raw system calls: requests that keep files.

use std::{
    ffi::{c_long, c_ulong},
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;
/// `IOCB_CMD_FSYNC`.
const SYNC: u16 = 2;
/// `IOCB_CMD_POLL`; Linux 4.18 on.
const POLL: u16 = 5;

/// A context, which ends with the process.
#[derive(Debug)]
pub struct Context(c_ulong);

impl Context {
    /// Makes one; `None` where the kernel has no AIO.
    pub fn new() -> io::Result<Option<Self>> {
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes one word.
        if unsafe { libc::syscall(libc::SYS_io_setup, 1 as c_long, &raw mut context) } == 0 {
            return Ok(Some(Self(context)));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOSYS) {
            return Ok(None);
        }
        Err(error)
    }

    /// Waits, in the kernel, until there is something to read.
    pub fn poll(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.submit(POLL, file, libc::POLLIN as u64, 0)
    }

    /// Begins to write back the dirty pages of a file.
    pub fn sync(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.submit(SYNC, file, 0, 0)
    }

    /// Begins to write to the start of a file; with `O_DIRECT` it does not wait for the device.
    pub fn write(&self, file: BorrowedFd<'_>, buffer: &'static [u8]) -> io::Result<()> {
        self.submit(WRITE, file, buffer.as_ptr() as u64, buffer.len() as u64)
    }

    /// Reports if one of the requests is done.
    pub fn is_done(&self) -> io::Result<bool> {
        // `struct io_event`
        let mut event = [0_u64; 4];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the event is as large as the kernel's, the time is read in the call only.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.0,
                0 as c_long,
                1 as c_long,
                event.as_mut_ptr(),
                ptr::from_ref(&now),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(done > 0)
    }

    /// Hands the kernel one request; its buffer must stay alive.
    fn submit(&self, what: u16, file: BorrowedFd<'_>, buffer: u64, length: u64) -> io::Result<()> {
        // struct iocb (uapi/linux/aio_abi.h)
        let mut request = [0_u8; 64];
        request[16..18].copy_from_slice(&what.to_ne_bytes());
        request[20..24].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        request[24..32].copy_from_slice(&buffer.to_ne_bytes());
        request[32..40].copy_from_slice(&length.to_ne_bytes());
        let requests = [request.as_ptr()];
        // SAFETY: there is one request, which the kernel reads in the call only.
        match unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1 as c_long, requests.as_ptr()) } {
            1 => Ok(()),
            0.. => Err(io::Error::other("nothing was submitted")),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
