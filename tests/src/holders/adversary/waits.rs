//! Invalid paths, and processes that wait for a server that does not answer.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Result, ensure};
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

use super::Worker;
use crate::{
    fuse::Connection,
    process::{ForkedChild, end_with_parent},
};

const PAGE: usize = 4096;

/// umount2 with any address as its path.
fn umount_at(address: usize, flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the kernel finds out what is at the address.
    let result = unsafe { libc::syscall(libc::SYS_umount2, address, flags) };
    if result == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

/// Long ones, of any bytes, and addresses of nothing.
pub(super) fn no_path(worker: &mut Worker) -> Result<()> {
    // A page, and one that nobody may read.
    // SAFETY: a mapping where the kernel has room for it.
    let pages = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            2 * PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: both pages are ours; the second is not used any more.
    let path = unsafe {
        libc::mprotect(pages.cast::<u8>().add(PAGE).cast(), PAGE, libc::PROT_NONE);
        std::slice::from_raw_parts_mut(pages.cast::<u8>(), PAGE)
    };
    let length = worker.noise.below(PAGE);
    path[0] = b'/';
    for byte in &mut path[1..] {
        *byte = match worker.noise.below(20) {
            0 => b'/',
            _ => 1 + (worker.noise.number() as u8 % 255),
        };
    }
    path[length.min(PAGE - 1)] = 0;
    let whole = path.as_ptr() as usize;
    for (address, flags) in [
        (whole, 0),
        (whole, libc::UMOUNT_NOFOLLOW | libc::MNT_EXPIRE),
        // It has no end before the page that nobody may read.
        (whole + PAGE - worker.noise.below(64).max(1), 0),
        (whole + PAGE, 0),
        (0, 0),
        (usize::MAX - worker.noise.below(PAGE), 0),
        (0xffff_8880_0000_0000, 0),
        (worker.noise.number() as usize, -1),
    ] {
        path[PAGE - 1] = b'x';
        worker.failing(1, || umount_at(address, flags));
    }
    // SAFETY: nobody uses them any more.
    unsafe { munmap(pages, 2 * PAGE) }?;
    Ok(())
}

/// A page that userfaultfd is asked for, which does not answer the kernel.
pub(super) fn user_fault(worker: &mut Worker) -> Result<()> {
    const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
    const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: it takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, USER_MODE_ONLY | libc::O_CLOEXEC) };
    ensure!(fd >= 0, "userfaultfd");
    // SAFETY: the call has just opened it.
    let fault = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: a mapping where the kernel has room for it.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, ProtFlags::READ, MapFlags::PRIVATE) }?;
    let mut api = [0xaa_u64, 0, 0];
    let mut register = [page as u64, PAGE as u64, 1, 0];
    // SAFETY: both are as long as these calls write.
    let done = unsafe {
        libc::ioctl(fault.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) == 0
            && libc::ioctl(fault.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) == 0
    };
    ensure!(done, "the range of userfaultfd");
    worker.failing(3, || umount_at(page as usize, 0));
    // SAFETY: nobody uses it any more.
    unsafe { munmap(page, PAGE) }?;
    Ok(())
}

/// A file system that does not answer, with callers of umount2 that wait for it: for a page of their path, and for a name
/// in it.
pub(super) fn deaf(worker: &mut Worker) -> Result<()> {
    worker.keep_child(|| {
        let (root, server) = Connection::new()?.serve_in_child()?;
        let file = openat(&root, "never-read", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: a mapping where the kernel has room for it.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                PAGE,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                &file,
                0,
            )
        }? as usize;
        let name = format!("/proc/self/fd/{}/nobody-knows\0", root.as_raw_fd());
        for address in [page, name.as_ptr() as usize] {
            let waits = ForkedChild::spawn(0, || {
                end_with_parent();
                let _ = umount_at(address, 0);
                Ok(())
            })?;
            // The server ends first, with its parent, and lets them go.
            std::mem::forget(waits);
        }
        std::mem::forget((root, server));
        Ok(())
    })
}
