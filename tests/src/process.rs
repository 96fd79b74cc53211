//! Parts of holder programs besides descriptors: forked children, threads, mappings.

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd,
    path::Path,
    ptr,
    sync::mpsc,
    thread,
};

use anyhow::Context as _;
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

use crate::{holder::PATIENCE, pause};

/// A process made by fork(2) or clone(2) alone; it ends with this value, and with its parent.
#[derive(Debug)]
pub struct ForkedChild(libc::pid_t);

impl ForkedChild {
    /// Forks a child that does nothing; call this while the process has one thread.
    pub fn pause() -> io::Result<Self> {
        Self::spawn(0, || Ok(()))
    }

    /// Makes a child that shares with its parent the things in the flags of clone(2), but no memory; it runs `body` and
    /// then waits for its end. Call this while the process has one thread.
    pub fn spawn(flags: libc::c_int, body: impl FnOnce() -> anyhow::Result<()>) -> io::Result<Self> {
        let flags = libc::c_long::from(flags | libc::SIGCHLD);
        // SAFETY: without a stack and with memory of its own the child continues as after fork(2); the process has one
        // thread, so the child may call anything.
        match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                end_with_parent();
                if let Err(error) = body() {
                    eprintln!("child: {error:#}");
                    // SAFETY: it takes no pointers; no code of the parent may run here.
                    unsafe { libc::_exit(1) }
                }
                loop {
                    // SAFETY: it takes no pointers.
                    unsafe { libc::pause() };
                }
            }
            pid => Ok(Self(pid as libc::pid_t)),
        }
    }

    /// A descendant whose parent dies before it; the process must be a subreaper.
    #[must_use]
    pub fn orphan(pid: u32) -> Self {
        Self(pid as libc::pid_t)
    }

    /// Forks a child that does something, and waits until it sleeps in that system call; call this while the process
    /// has one thread.
    pub fn blocked_in(call: libc::c_long, run: impl FnOnce()) -> io::Result<Self> {
        // SAFETY: the process has one thread, so the child may call anything.
        let child = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: these take no pointers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                run();
                // SAFETY: the same.
                unsafe { libc::_exit(1) }
            }
            pid => Self(pid),
        };
        pause::until(PATIENCE, || {
            let status = fs::read_to_string(format!("/proc/{}/syscall", child.pid()))?;
            Ok(status.starts_with(&format!("{call} ")).then_some(()))
        })
        .context("the child does not block")
        .map_err(io::Error::other)?;
        Ok(child)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0 as u32
    }

    /// Waits until it has stopped.
    pub fn wait_until_stopped(&self) -> io::Result<()> {
        let mut status = 0;
        // SAFETY: `status` is there for the whole call.
        if unsafe { libc::waitpid(self.0, &raw mut status, libc::WUNTRACED) } == self.0
            && libc::WIFSTOPPED(status)
        {
            return Ok(());
        }
        Err(io::Error::other("the child did not stop"))
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

/// A child that sleeps in the lookup of a path.
pub fn stuck_in_stat(path: &Path) -> io::Result<ForkedChild> {
    ForkedChild::blocked_in(libc::SYS_statx, || {
        let _ = rustix::fs::statx(
            rustix::fs::CWD,
            path,
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::BASIC_STATS,
        );
    })
}

/// Makes the kernel kill the process when its parent, or the process that adopted it, ends.
pub fn end_with_parent() {
    // SAFETY: it takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Makes the process adopt its orphaned descendants.
pub fn adopt_orphans() {
    // SAFETY: it takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Numbers that a child tells its parent.
#[derive(Debug)]
pub struct Numbers {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Numbers {
    /// A pipe for them.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// The child's side.
    pub fn tell(&self, number: u32) -> io::Result<()> {
        (&self.writer).write_all(&number.to_ne_bytes())
    }

    /// The parent's side.
    pub fn hear(&self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        (&self.reader).read_exact(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
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
