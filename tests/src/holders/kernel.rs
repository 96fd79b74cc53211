//! References of the kernel itself, on behalf of a process: devices, swap areas, exports, probes, interpreters.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _},
        },
    },
    path::Path,
    process,
};

use anyhow::Result;
use rustix::{
    fs::{CWD, FileType, MemfdFlags, Mode, memfd_create, mknodat},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    claim::Claim,
    guard::{Guard, detached, loop_device, write_below},
    hold::Setup,
    process::ForkedChild,
    swap::{Swap, area},
};

/// The reason if there are no loop devices.
fn no_loop() -> Option<&'static str> {
    (!Path::new("/dev/loop-control").exists()).then_some("this kernel has no loop devices")
}

/// Puts a loop device on a file, and closes the file: the device keeps it.
pub(super) fn looped(setup: &Setup) -> Result<()> {
    if let Some(reason) = no_loop() {
        return setup.skip(reason);
    }
    let file = OpenOptions::new().read(true).write(true).open(setup.path())?;
    // The device releases the file when it is closed, at the latest at the end of this process.
    let (device, name) = loop_device(&file)?;
    drop(file);
    let held = setup.hold([Claim::new("loop").without_process().held_by(name).regular()]);
    drop(device);
    held
}

/// Swaps to the path, once there is an area.
fn swapping(setup: &Setup) -> Result<()> {
    let swap = match Swap::on(setup.path()) {
        Ok(swap) => swap,
        Err(error) => return setup.skip(&format!("swapon: {error}")),
    };
    let held = setup.hold([Claim::new("swap").without_process()]);
    drop(swap);
    held
}

/// Swaps to a file.
pub(super) fn swap(setup: &Setup) -> Result<()> {
    if let Some(reason) = Swap::hidden() {
        return setup.skip(reason);
    }
    fs::write(setup.path(), area())?;
    fs::set_permissions(setup.path(), Permissions::from_mode(0o600))?;
    // The kernel asks where the blocks are.
    File::open(setup.path())?.sync_all()?;
    swapping(setup)
}

/// Swaps to a block device, by a node of its own on the mount.
pub(super) fn swap_device(setup: &Setup) -> Result<()> {
    if let Some(reason) = Swap::hidden().or_else(no_loop) {
        return setup.skip(reason);
    }
    let mut memory = File::from(memfd_create("swap", MemfdFlags::CLOEXEC)?);
    memory.write_all(&area())?;
    let (device, _) = loop_device(&memory)?;
    let (kind, mode) = (FileType::BlockDevice, Mode::from_raw_mode(0o600));
    mknodat(CWD, setup.path(), kind, mode, device.metadata()?.rdev())?;
    swapping(setup)
}

/// `NFSEXP_NOSUBTREECHECK` and `NFSEXP_FSID`, which a file system without a device needs.
const EXPORT_FLAGS: u32 = 0x400 | 0x2000;
/// When the entry expires, in seconds since the epoch: never.
const NEVER: u32 = i32::MAX as u32;

/// Exports a directory by the NFS server, as mountd does: an entry in the kernel's cache of exports. No server runs.
pub(super) fn nfs_export(setup: &Setup) -> Result<()> {
    if !Path::new("/proc/net/rpc/nfsd.export").exists() {
        return setup.skip("this kernel has no NFS server");
    }
    let client = format!("ebusy-test-{}", process::id());
    let _guard = Guard::start(|| {
        for cache in ["nfsd.export", "auth.unix.ip"] {
            // The kernel wants a number, and drops everything.
            let _ = write_cache(cache, "flush", b"1\n");
        }
    })?;
    // A client is known once an address is mapped to it.
    let address = format!("nfsd 192.0.2.1 {NEVER} {client}\n");
    write_cache("auth.unix.ip", "channel", address.as_bytes())?;
    // Anonymous user and group, and the number of the file system.
    let rest = format!(" {NEVER} {EXPORT_FLAGS} 65534 65534 1\n");
    let export = around(&format!("{client} "), setup.path(), &rest);
    if let Err(error) = write_cache("nfsd.export", "channel", &export) {
        return setup.skip(&format!("it cannot be exported: {error}"));
    }
    let mut claim = Claim::new("nfs_export").without_process();
    // Where the kernel does not describe its modules, the client is not found.
    if Path::new("/sys/kernel/btf/nfsd").exists() {
        claim = claim.held_by(client);
    }
    setup.hold([claim])
}

fn write_cache(cache: &str, name: &str, text: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/net/rpc").join(cache).join(name);
    OpenOptions::new().write(true).open(path)?.write_all(text)
}

/// A line for the kernel with a path in it.
fn around(before: &str, path: &Path, after: &str) -> Vec<u8> {
    [before.as_bytes(), path.as_os_str().as_bytes(), after.as_bytes()].concat()
}

/// Registers an interpreter with binfmt_misc that is kept open (flag `F`): the path must be a copy of a program.
pub(super) fn binfmt(setup: &Setup) -> Result<()> {
    let Ok(root) = detached("binfmt_misc") else {
        return setup.skip("this kernel has no binfmt_misc");
    };
    let name = format!("ebusy-test-{}", process::id());
    let _guard = Guard::start(|| {
        let _ = write_below(&root, &name, b"-1");
    })?;
    let entry = around(&format!(":{name}:M::{name}::"), setup.path(), ":F");
    if let Err(error) = write_below(&root, "register", &entry) {
        return setup.skip(&format!("nothing can be registered: {error:#}"));
    }
    let claim = Claim::new("binfmt_misc").without_process();
    setup.hold([claim.held_by(name).regular()])
}

/// Sets a uprobe by tracefs, which belongs to no process.
pub(super) fn uprobe_tracefs(setup: &Setup) -> Result<()> {
    let Ok(tracefs) = detached("tracefs") else {
        return setup.skip("tracefs cannot be mounted");
    };
    let event = format!("ebusy_test/held{}", process::id());
    let remove = format!("-:{event}");
    let _guard = Guard::start(|| {
        let _ = write_below(&tracefs, "uprobe_events", remove.as_bytes());
    })?;
    let set = around(&format!("p:{event} "), setup.path(), ":0x10");
    if let Err(error) = write_below(&tracefs, "uprobe_events", &set) {
        return setup.skip(&format!("no uprobe can be set: {error:#}"));
    }
    setup.hold([Claim::new("uprobe").without_process().held_by(event)])
}

/// Sets a uprobe by `perf_event_open(2)`, as tracers do.
pub(super) fn uprobe_perf(setup: &Setup) -> Result<()> {
    let Ok(kind) = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type") else {
        return setup.skip("this kernel has no uprobes for perf");
    };
    let event = match uprobe(kind.trim().parse()?, setup.path()) {
        Ok(event) => event,
        Err(error) => return setup.skip(&format!("no uprobe can be set: {error}")),
    };
    let mut claim = Claim::new("uprobe");
    claim.owners[0].fd = Some(event.as_raw_fd() as u32);
    setup.hold([claim])
}

/// A uprobe near the start of a file.
fn uprobe(kind: u32, path: &Path) -> io::Result<OwnedFd> {
    /// `PERF_ATTR_SIZE_VER1`.
    const SIZE: usize = 72;
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // struct perf_event_attr (uapi/linux/perf_event.h): type, size; uprobe_path is at 56, probe_offset at 64.
    let mut attributes = [0_u8; SIZE];
    attributes[..4].copy_from_slice(&kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&(SIZE as u32).to_ne_bytes());
    attributes[56..64].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    attributes[64..72].copy_from_slice(&16_u64.to_ne_bytes());
    // SAFETY: the attributes are as long as they say, and the path in them lives until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Turns process accounting on, for a pid namespace of its own. Only the backing file of an overlay blocks, and
/// that not on every kernel.
pub(super) fn accounting(setup: &Setup) -> Result<()> {
    if !accounting_blocks() {
        return setup.skip("process accounting does not block on this kernel");
    }
    let path = CString::new(setup.path().as_os_str().as_bytes())?;
    // SAFETY: only children are affected.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    // SAFETY: the path ends with a null.
    let child = ForkedChild::blocked_in(libc::SYS_rt_sigtimedwait, move || unsafe {
        if libc::acct(path.as_ptr()) == 0 {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
        }
    });
    let Ok(child) = child else {
        return setup.skip("no process accounting");
    };
    let namespace = format!("/proc/{}/ns/pid", child.pid());
    setup.hold([Claim::new("accounting").without_process().held_by(namespace)])
}

/// Up to Linux 6.12 (kernel fact 13).
fn accounting_blocks() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) <= (Some(6), Some(12))
}
