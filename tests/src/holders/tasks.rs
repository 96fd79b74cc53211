//! Descriptors of processes and threads in every possible state.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    mem,
    os::{
        fd::{AsRawFd as _, IntoRawFd as _},
        unix::process::parent_id,
    },
    process, ptr,
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    thread::{UnshareFlags, gettid, unshare_unsafe},
};

use super::file::reading;
use crate::{
    claim::{Claim, Owner},
    hold::Setup,
    holder::PATIENCE,
    pause,
    process::{ForkedChild, Numbers, adopt_orphans, end_with_parent, in_thread},
};

/// One open file description, shared by dup(2) and by fork(2): three descriptors in each of two processes, one
/// reference.
pub(super) fn shared(setup: &Setup) -> Result<()> {
    let (file, mut claim) = reading(setup)?;
    let duplicates = [file.try_clone()?, file.try_clone()?];
    let child = ForkedChild::pause()?;
    let descriptors = [&file, &duplicates[0], &duplicates[1]].map(|file| file.as_raw_fd() as u32);
    claim.owners = [process::id(), child.pid()]
        .into_iter()
        .flat_map(|pid| descriptors.map(|fd| Owner::descriptor(pid, fd)))
        .collect();
    setup.hold([claim])
}

/// A child that opens the file, keeps it, and then runs `body`.
fn child_with_file(setup: &Setup, then: impl FnOnce()) -> Result<(ForkedChild, u32)> {
    let numbers = Numbers::new()?;
    let child = ForkedChild::spawn(0, || {
        numbers.tell(File::open(setup.path())?.into_raw_fd() as u32)?;
        then();
        Ok(())
    })?;
    let fd = numbers.hear()?;
    Ok((child, fd))
}

/// The file is open in that process.
fn open_in(setup: &Setup, child: &ForkedChild, fd: u32) -> Claim {
    Claim::fd_of(child.pid(), fd, "read")
        .regular()
        .opened_since(setup.began)
}

/// A process that was stopped by a signal holds a file open.
pub(super) fn stopped(setup: &Setup) -> Result<()> {
    // SAFETY: it takes no pointers.
    let (child, fd) = child_with_file(setup, || unsafe {
        libc::raise(libc::SIGSTOP);
    })?;
    child.wait_until_stopped()?;
    setup.hold([open_in(setup, &child, fd)])
}

/// A process that stands still under a debugger holds a file open.
pub(super) fn traced(setup: &Setup) -> Result<()> {
    // SAFETY: these take no pointers that are used.
    let (child, fd) = child_with_file(setup, || unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGSTOP);
    })?;
    child.wait_until_stopped()?;
    setup.hold([open_in(setup, &child, fd)])
}

/// The init of a pid namespace holds a file open; ebusy must report its pid on the host.
pub(super) fn pid_namespace(setup: &Setup) -> Result<()> {
    // SAFETY: no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    let (child, fd) = child_with_file(setup, || ())?;
    setup.hold([open_in(setup, &child, fd)])
}

/// A child shares the descriptor table of its parent (`CLONE_FILES`), which has opened a file and ended.
pub(super) fn clone_files(setup: &Setup) -> Result<()> {
    let numbers = Numbers::new()?;
    adopt_orphans();
    let adopter = process::id();
    let parent = ForkedChild::spawn(0, || {
        let file = File::open(setup.path())?;
        numbers.tell(file.as_raw_fd() as u32)?;
        let leaver = process::id();
        // SAFETY: without a stack and with memory of its own the child continues as after fork(2), in one thread.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => {
                pause::until(PATIENCE, || Ok((parent_id() != leaver).then_some(())))?;
                end_with_parent();
                if parent_id() == adopter {
                    numbers.tell(process::id())?;
                }
                // The descriptor is in the table that the parent has left behind.
                mem::forget(file);
                Ok(())
            }
            // SAFETY: it takes no pointers; the table stays with the child, so there is nothing to close.
            _ => unsafe { libc::_exit(0) },
        }
    })?;
    let fd = numbers.hear()?;
    let child = ForkedChild::orphan(numbers.hear()?);
    let opener = parent.pid();
    drop(parent);
    let mut claim = open_in(setup, &child, fd);
    claim.opened_by = Some(opener);
    setup.hold([claim])
}

/// A process waits for its child as after vfork(2), which nothing but a fatal signal ends; both share the table that
/// has the descriptor.
pub(super) fn vfork(setup: &Setup) -> Result<()> {
    let numbers = Numbers::new()?;
    adopt_orphans();
    let parent = ForkedChild::spawn(0, || {
        let file = File::open(setup.path())?;
        numbers.tell(file.as_raw_fd() as u32)?;
        // The child has memory of its own; the point is that the parent sleeps until the child has released it.
        let child = ForkedChild::spawn(libc::CLONE_VFORK | libc::CLONE_FILES, || {
            Ok(numbers.tell(process::id())?)
        })?;
        mem::forget((file, child));
        Ok(())
    })?;
    let fd = numbers.hear()?;
    // It is adopted once its parent is gone: values go in the order of their fields.
    let family = (parent, ForkedChild::orphan(numbers.hear()?));
    let mut claim = Claim::fd(fd, "read").regular().opened_since(setup.began);
    claim.owners = [family.0.pid(), family.1.pid()]
        .map(|pid| Owner::descriptor(pid, fd))
        .to_vec();
    setup.hold([claim])
}

/// A thread with a descriptor table of its own holds a file open.
pub(super) fn thread_fd(setup: &Setup) -> Result<()> {
    let path = setup.path().clone();
    let (sender, opened) = mpsc::channel();
    let (tid, _thread) = in_thread(move || {
        // SAFETY: the thread uses no descriptor of the others but standard output, and they none of its own.
        unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
        // The descriptor goes with the thread's table.
        let _ = sender.send(File::open(path)?.into_raw_fd() as u32);
        Ok(())
    })?;
    let mut claim = Claim::fd(opened.recv()?, "read")
        .regular()
        .opened_since(setup.began);
    claim.owners[0].tid = Some(tid);
    setup.hold([claim])
}

/// The leader of the process has exited, and is a zombie; another thread lives and holds a file open.
pub(super) fn zombie_leader(setup: &Setup) -> Result<()> {
    let setup = setup.clone();
    thread::Builder::new().spawn(move || match without_leader(&setup) {
        Ok(()) => process::exit(0),
        Err(error) => {
            eprintln!("{error:#}");
            process::exit(1)
        }
    })?;
    // SAFETY: it ends this thread, and runs nothing of the process; nobody joins it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended")
}

fn without_leader(setup: &Setup) -> Result<()> {
    let leader = format!("/proc/{0}/task/{0}/stat", process::id());
    pause::until(PATIENCE, || {
        Ok(fs::read_to_string(&leader)?.contains(") Z ").then_some(()))
    })
    .context("the leader does not end")?;
    let (_file, mut claim) = reading(setup)?;
    // It is the only remaining owner.
    claim.owners[0].tid = Some(gettid().as_raw_nonzero().get() as u32);
    setup.hold([claim])
}

/// Leaves a zombie that had a file open and its working directory on the mount; it holds nothing.
pub(super) fn zombie(setup: &Setup) -> Result<()> {
    let numbers = Numbers::new()?;
    let child = ForkedChild::spawn(0, || {
        rustix::process::chdir(setup.path().parent().unwrap_or(setup.path()))?;
        let _file = File::open(setup.path())?;
        numbers.tell(0)?;
        // SAFETY: it takes no pointers; no code of the parent may run here.
        unsafe { libc::_exit(0) }
    })?;
    numbers.hear()?;
    // SAFETY: a null pointer is allowed. The child is waited for and stays a zombie.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        libc::waitid(
            libc::P_PID,
            child.pid(),
            ptr::from_mut(&mut info),
            libc::WEXITED | libc::WNOWAIT,
        );
    }
    setup.hold([])
}

/// Closes a descriptor that a thread reads from: `hold-fd-in-call FIFO`. The file is in no table; only the call holds
/// it.
pub(super) fn in_call(setup: &Setup) -> Result<()> {
    mknodat(CWD, setup.path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // The file is its own writer, so the read waits for data.
    let fifo = OpenOptions::new().read(true).write(true).open(setup.path())?;
    let fd = fifo.into_raw_fd();
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = sender.send(gettid().as_raw_nonzero());
        // SAFETY: a byte is read into a buffer of one; nobody else uses the number while the descriptor is closed.
        unsafe { libc::read(fd, [0u8; 1].as_mut_ptr().cast(), 1) }
    });
    wait_for_call(receiver.recv()?.get())?;
    // SAFETY: nobody owns the descriptor any more.
    unsafe { libc::close(fd) };
    let held = setup.hold([Claim::fd(fd.cast_unsigned(), "read+write").without_process()]);
    OpenOptions::new()
        .write(true)
        .open(setup.path())?
        .write_all(b"x")?;
    if reader.join().is_err() {
        bail!("the reader panicked");
    }
    held
}

fn wait_for_call(tid: i32) -> Result<()> {
    pause::until(PATIENCE, || {
        let call = fs::read_to_string(format!("/proc/self/task/{tid}/syscall"))?;
        Ok(call.starts_with(&format!("{} ", libc::SYS_read)).then_some(()))
    })
    .context("the thread does not read")
}
