//! What holder programs are made of besides descriptors: forked children, threads, mappings.

use std::{fs::File, io, os::fd::AsFd, ptr, sync::mpsc, thread};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// A child made by fork(2) alone, which does nothing; it goes with this value, and with the parent.
#[derive(Debug)]
pub struct ForkedChild(libc::pid_t);

impl ForkedChild {
    /// Forks; call this while the process has one thread.
    pub fn pause() -> io::Result<Self> {
        // SAFETY: the process has one thread, so the child may call anything.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: these take no pointers; the child does nothing else.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    loop {
                        libc::pause();
                    }
                }
            }
            pid => Ok(Self(pid)),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0 as u32
    }
}

impl Drop for ForkedChild {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for, so the number is still its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// One page of a file, mapped for reading.
#[derive(Debug)]
pub struct Mapping(*mut std::ffi::c_void);

impl Mapping {
    /// Maps the page with that number.
    pub fn of(file: &File, page: u64) -> io::Result<Self> {
        let size = page_size();
        // SAFETY: the kernel chooses an address where nothing else is.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                size,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file.as_fd(),
                page * size as u64,
            )
        }?;
        Ok(Self(address))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is what `of` mapped, and nobody has a pointer into it.
        let _ = unsafe { munmap(self.0, page_size()) };
    }
}

/// Runs something in a new thread, which then waits for the process to end; returns its id.
pub fn in_thread<F>(run: F) -> io::Result<(u32, thread::JoinHandle<()>)>
where
    F: FnOnce() -> io::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel();
    let handle = thread::Builder::new().spawn(move || {
        let result = run().map(|()| rustix::thread::gettid().as_raw_nonzero().get() as u32);
        let _ = sender.send(result);
        loop {
            thread::park();
        }
    })?;
    let tid = receiver.recv().map_err(io::Error::other)??;
    Ok((tid, handle))
}
