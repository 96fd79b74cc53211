//! A user without privilege who makes noise: `noise KIND DIRECTORY COUNT`. The directory is writable for everybody.
//!
//! - `umounts`: unmounts a busy mount of its own again and again, in COUNT threads
//! - `renames`: renames `/`, which is always busy, each time to another name
//! - `hanging`: COUNT threads are in umount2 of a path on a file system that does not answer
//! - `mounts`: has COUNT mounts, and says so
//! - `opens`: opens and closes DIRECTORY again and again
//! - `files`: has DIRECTORY open COUNT times
//!
//! It prints a line when it has begun, ends when its input does, and then prints how many calls it made.

use std::{
    ffi::CString,
    fs::{self, File},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, mount, mount_change, move_mount},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{fuse::Connection, hold::wait_for_end};

/// `nobody`.
const USER: u32 = 65_534;
/// Threads that make as many calls as they can.
const LOUD: u64 = 2;
/// The stack of a thread that only waits.
const STACK: usize = 64 << 10;

pub(super) fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().context("noise KIND DIRECTORY COUNT");
    let (kind, directory) = (next()?, PathBuf::from(next()?));
    let count: u64 = next()?.to_str().context("a number is text")?.parse()?;
    let calls = Arc::new(AtomicU64::new(0));
    match kind.to_str() {
        Some("umounts") => {
            drop_privileges()?;
            own_namespaces()?;
            mount("noise", &directory, "tmpfs", MountFlags::empty(), None)?;
            let held = File::create(directory.join("held"))?;
            let path = c_string(&directory)?;
            // SAFETY: the path ends with a null byte.
            repeat(LOUD, &calls, move |_| unsafe {
                libc::umount2(path.as_ptr(), 0);
            });
            std::mem::forget(held);
        }
        Some("renames") => {
            drop_privileges()?;
            repeat(LOUD, &calls, |number| {
                let _ = fs::rename("/", format!("/noise-{number}"));
            });
        }
        Some("opens") => {
            drop_privileges()?;
            repeat(LOUD, &calls, move |_| drop(File::open(&directory)));
        }
        Some("files") => {
            let count = raise_files(count);
            drop_privileges()?;
            for _ in 0..count {
                std::mem::forget(File::open(&directory)?);
            }
            calls.store(count, Ordering::Relaxed);
        }
        Some("hanging") => {
            hang(&directory, count)?;
            calls.store(count, Ordering::Relaxed);
        }
        Some("mounts") => {
            drop_privileges()?;
            own_namespaces()?;
            mount("noise", &directory, "tmpfs", MountFlags::empty(), None)?;
            for number in 0..count {
                let path = directory.join(number.to_string());
                fs::create_dir(&path)?;
                mount("noise", &path, "tmpfs", MountFlags::empty(), None)?;
            }
            calls.store(count, Ordering::Relaxed);
        }
        _ => bail!("no such noise: {}", kind.display()),
    }
    println!("loud");
    wait_for_end()?;
    println!("{}", calls.load(Ordering::Relaxed));
    // Threads that hang go with the process.
    // SAFETY: it takes no pointers.
    unsafe { libc::_exit(0) }
}

/// Raises the limit of open files; returns how many of `count` are possible.
fn raise_files(count: u64) -> u64 {
    const OTHERS: u64 = 64;
    let set = |most| {
        let (current, maximum) = (Some(most), Some(most));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
    };
    if set(count + OTHERS).is_ok() {
        return count;
    }
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(0);
    let raised = set(most).map_or(0, |()| most.saturating_sub(OTHERS));
    raised.min(count)
}

/// Repeats the call, each time with another number.
fn repeat(threads: u64, calls: &Arc<AtomicU64>, call: impl Fn(u64) + Send + Clone + 'static) {
    for _ in 0..threads {
        let (calls, call) = (Arc::clone(calls), call.clone());
        thread::spawn(move || {
            loop {
                call(calls.fetch_add(1, Ordering::Relaxed));
            }
        });
    }
}

fn hang(directory: &Path, count: u64) -> Result<()> {
    let device = directory.join("fuse");
    let fuse = makedev(10, 229);
    mknodat(
        CWD,
        &device,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        fuse,
    )?;
    rustix::fs::chmod(&device, Mode::from_raw_mode(0o666))?;
    drop_privileges()?;
    own_namespaces()?;
    let connection = Connection::of(File::options().read(true).write(true).open(&device)?)?;
    let root = connection.serve_in_thread();
    let place = directory.join("hangs");
    fs::create_dir(&place)?;
    move_mount(&root, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for number in 0..count {
        let path = c_string(&place.join(format!("never-{number}")))?;
        let run = move || {
            // SAFETY: the path ends with a null byte.
            unsafe { libc::umount2(path.as_ptr(), 0) };
        };
        thread::Builder::new().stack_size(STACK).spawn(run)?;
    }
    crate::pause::until(crate::holder::PATIENCE, || {
        let mut waiting = 0;
        for task in fs::read_dir("/proc/self/task")? {
            let call = fs::read_to_string(task?.path().join("syscall")).unwrap_or_default();
            waiting += u64::from(call.starts_with(&format!("{} ", libc::SYS_umount2)));
        }
        Ok((waiting >= count).then_some(()))
    })
}

fn c_string(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// From now on this is a user like any other. By the calls themselves: those of the C library change all threads.
fn drop_privileges() -> Result<()> {
    // SAFETY: the pointer is not used for a list of no groups.
    let dropped = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) == 0
            && libc::syscall(libc::SYS_setresgid, USER, USER, USER) == 0
            && libc::syscall(libc::SYS_setresuid, USER, USER, USER) == 0
    };
    ensure!(dropped, "{}", std::io::Error::last_os_error());
    // Else /proc/self is root's.
    // SAFETY: it takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    Ok(())
}

/// Where it may mount; call this while the process has one thread.
fn own_namespaces() -> Result<()> {
    // SAFETY: no file descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }.context("no user namespaces")?;
    fs::write("/proc/self/uid_map", format!("0 {USER} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {USER} 1"))?;
    Ok(mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}
