//! A process whose memory makes every reader wait: `waiter MODE FILE`.
//!
//! Its child holds the file open, and has a page of a file of a FUSE whose server does not answer:
//! - `path`: the child calls umount2 with a path on a page that never comes.
//! - `epoll`: it waits for the events of an epoll, which the kernel writes there, and has its lock meanwhile.
//! - `locked`: it maps something else over a page that is never written back, and has the lock of its address space meanwhile.
//!
//! It prints the id of that process, and ends with its input; then the server ends, which releases all waiting
//! processes.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    ptr,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{Mode, OFlags, openat},
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous},
};

use crate::{fuse::Connection, hold::wait_for_end, process::ForkedChild};

const PAGE: usize = 4096;

pub(super) fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut argument = || arguments.next().context("waiter MODE FILE");
    let (mode, file) = (argument()?, PathBuf::from(argument()?));
    let (root, server) = Connection::new()?.serve_in_child()?;
    let held = File::open(file)?;
    let open = |name| openat(&root, name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let child = match mode.to_str() {
        Some("path") => {
            let page = page_of(&open("never-read")?, MapFlags::PRIVATE)?;
            ForkedChild::blocked_in(libc::SYS_umount2, || {
                // SAFETY: what the kernel makes of the address is what is tested.
                unsafe { libc::umount2(page as *const libc::c_char, 0) };
            })?
        }
        Some("epoll") => {
            let (epoll, page) = (ready_epoll()?, page_of(&open("never-read")?, MapFlags::PRIVATE)?);
            ForkedChild::blocked_in(libc::SYS_epoll_wait, || {
                // SAFETY: the page has room for an event.
                unsafe { libc::syscall(libc::SYS_epoll_wait, epoll.as_raw_fd(), page, 1, -1) };
            })?
        }
        Some("locked") => {
            let page = page_of(&open("never-written")?, MapFlags::SHARED)?;
            ForkedChild::blocked_in(libc::SYS_mmap, || {
                // SAFETY: the page is there, and nobody uses it any more when something else is mapped there.
                unsafe {
                    (page as *mut u8).write_volatile(1);
                    let _ = mmap_anonymous(
                        page as *mut libc::c_void,
                        PAGE,
                        ProtFlags::READ,
                        MapFlags::PRIVATE | MapFlags::FIXED,
                    );
                }
            })?
        }
        _ => bail!("no such mode"),
    };
    // The child alone has it.
    drop(held);
    println!("{}", child.pid());
    wait_for_end()?;
    // The server first: the others end when their page fails.
    drop(server);
    drop(child);
    Ok(())
}

/// Maps a page of the file.
fn page_of(file: &OwnedFd, how: MapFlags) -> Result<usize> {
    // SAFETY: a mapping where the kernel has room for it.
    let page = unsafe {
        mmap(
            ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            how,
            file,
            0,
        )
    }?;
    Ok(page as usize)
}

/// An epoll that has an event.
fn ready_epoll() -> Result<OwnedFd> {
    // SAFETY: plain system calls; the descriptors are new, and the event lives for the whole call.
    unsafe {
        let epoll = OwnedFd::from_raw_fd(libc::epoll_create1(0));
        let event = OwnedFd::from_raw_fd(libc::eventfd(1, 0));
        let mut wanted = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        let added = libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            event.as_raw_fd(),
            &raw mut wanted,
        );
        ensure!(added == 0, "epoll_ctl: {}", std::io::Error::last_os_error());
        // It goes with the process.
        std::mem::forget(event);
        Ok(epoll)
    }
}
