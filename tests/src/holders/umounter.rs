//! Tries to unmount a path: `umounter [OPTION VALUE]... PATH ATTEMPTS PAUSE_MS [FLAG]...`.
//!
//! Options, in this order of effect: `--mntns NAMESPACE`, `--open PATH` (the path to unmount is then a format: `{}` is
//! the descriptor), `--root PATH`, `--cwd PATH`, `--entry native|i386`. Flags: `detach`, `expire`, `force`, `nofollow`,
//! `stay`.
//!
//! It stops at the first success, prints an [`Umounter`] as JSON, and ends; with `stay` not before its input does.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStringExt as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::mount::UnmountFlags;

use crate::{hold::wait_for_end, namespace::Namespace, pause, umounter::Umounter};

pub(super) fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut options = [const { None::<OsString> }; 5];
    let [namespace, open, root, cwd, entry] = &mut options;
    while let Some(name) = arguments.next_if(|argument| argument.as_encoded_bytes().starts_with(b"--")) {
        let option = match name.to_str() {
            Some("--mntns") => &mut *namespace,
            Some("--open") => &mut *open,
            Some("--root") => &mut *root,
            Some("--cwd") => &mut *cwd,
            Some("--entry") => &mut *entry,
            _ => bail!("no such option: {}", name.display()),
        };
        *option = Some(arguments.next().context("an option needs a value")?);
    }
    if let Some(name) = namespace {
        let namespace: Namespace = name.to_str().context("a name is text")?.parse()?;
        namespace.enter()?;
    }
    let mut path = arguments.next().context("a path is needed")?.into_vec();
    let file = open.as_ref().map(File::open).transpose()?;
    if let Some(file) = &file {
        let format = String::from_utf8(path)?;
        path = format.replace("{}", &file.as_raw_fd().to_string()).into_bytes();
    }
    if let Some(root) = root {
        rustix::process::chroot(&*root)?;
    }
    if let Some(cwd) = cwd {
        rustix::process::chdir(&*cwd)?;
    }
    let mut number = || -> anyhow::Result<u64> {
        let argument = arguments.next().context("a number is needed")?;
        Ok(argument.to_str().context("a number is text")?.parse()?)
    };
    let (attempts, pause) = (number()?, Duration::from_millis(number()?));
    let mut flags = UnmountFlags::empty();
    let mut stay = false;
    for argument in arguments {
        if argument == "stay" {
            stay = true;
            continue;
        }
        flags |= match argument.to_str() {
            Some("detach") => UnmountFlags::DETACH,
            Some("expire") => UnmountFlags::EXPIRE,
            Some("force") => UnmountFlags::FORCE,
            Some("nofollow") => UnmountFlags::NOFOLLOW,
            _ => bail!("no such flag: {}", argument.display()),
        };
    }
    let umount = match entry.as_ref().and_then(|entry| entry.to_str()) {
        Some("i386") => i386::umount2,
        _ => native,
    };

    let path = CString::new(path)?;
    let mut refused = 0_u64;
    let mut unmounted = false;
    let mut failed = None;
    while refused < attempts && !unmounted && failed.is_none() {
        match umount(&path, flags.bits()).map_err(|error| error.raw_os_error()) {
            Ok(()) => unmounted = true,
            Err(Some(libc::EBUSY)) => {
                refused += 1;
                pause::takes(pause, "a caller waits before it tries again");
            }
            Err(error) => failed = error.or(Some(0)),
        }
    }
    let answer = Umounter {
        pid: std::process::id(),
        refused,
        unmounted,
        error: failed,
    };
    println!("{}", serde_json::to_string(&answer)?);
    if stay {
        wait_for_end()?;
    }
    Ok(())
}

fn native(path: &CString, flags: u32) -> io::Result<()> {
    // SAFETY: the path ends with a null byte.
    match unsafe { libc::umount2(path.as_ptr(), flags as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The entry of 32-bit programs, which a 64-bit one can use as well.
#[cfg(target_arch = "x86_64")]
mod i386 {
    use std::{arch::asm, ffi::CString, io, ptr};

    /// `arch/x86/entry/syscalls/syscall_32.tbl`
    const UMOUNT2: i32 = 52;

    pub(crate) fn umount2(path: &CString, flags: u32) -> io::Result<()> {
        let bytes = path.as_bytes_with_nul();
        let low = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses an address where nothing else is; pointers have 32 bits there.
        let copy = unsafe { libc::mmap(ptr::null_mut(), 4096, access, low, -1, 0) };
        if copy == libc::MAP_FAILED || bytes.len() > 4096 {
            return Err(io::Error::last_os_error());
        }
        let ret: i32;
        // SAFETY: the page has room for the path. The call takes a pointer to it and a number, and changes no memory;
        // `rbx`, which cannot be named, is put back, and the red zone is not used since `asm!` has a stack.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast(), bytes.len());
            asm!(
                "push rbx",
                "mov ebx, {path:e}",
                "int 0x80",
                "pop rbx",
                path = in(reg) copy as usize as u32,
                inlateout("eax") UMOUNT2 => ret,
                in("ecx") flags,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
            libc::munmap(copy, 4096);
        }
        if ret == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(-ret))
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod i386 {
    pub(crate) use super::native as umount2;
}
