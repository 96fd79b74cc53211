//! Files opened on watched mounts, and closed for good.

use aya_ebpf::{maps::ring_buf::RingBufEntry, programs::TracePointContext};
use tracer_common::{ABSENT, Loss, OpenRecord, PathRef, RecordKind, Room};

use crate::{
    CONFIG, NEW_MOUNTS, WATCHED, WATCHED_SUPERBLOCKS,
    kernel::{current, loaded, offset, path, read},
    ledger, lose,
    source::{admit, ring_of, source},
    task::{ids, now, write_header},
};

/// Offset of the result in `syscalls:sys_exit_*`.
const RESULT: usize = 16;
/// Of x86 and arm64 alike (asm-generic/fcntl.h).
const O_PATH: u32 = 0o10_000_000;

#[inline(always)]
fn own_tgid() -> u32 {
    loaded(&CONFIG.own_tgid)
}

/// Return of `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`, `open_tree`: the result is a descriptor of the
/// running thread.
#[inline(always)]
pub(crate) fn exit(ctx: &TracePointContext) {
    // SAFETY: the record of a return is 24 bytes long.
    let Ok(fd) = (unsafe { ctx.read_at::<i64>(RESULT) }) else {
        return;
    };
    if fd < 0 {
        return;
    }
    let Some(file) = file_of(fd as u64) else {
        // Another thread may have closed it already.
        return lose(Loss::OpenFault);
    };
    if let Some(opened) = opened_on(file) {
        report(RecordKind::Open, file, opened, fd as i32, (now(), source()));
    }
}

/// The open file of a descriptor of the running thread.
#[inline(always)]
pub(crate) fn file_of(fd: u64) -> Option<u64> {
    let files: u64 = read(current(), offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let array: u64 = read(table, offset!(fdt_fd))?;
    if fd >= 1 << 30 {
        return None;
    }
    read(array + fd * 8, 0)
}

/// `do_dentry_open` opened a file. Of a failed open the path is zeroed.
#[inline(always)]
pub(crate) fn opened(file: u64) {
    let Some(opened) = opened_on(file) else { return };
    let (time, source) = (now(), source());
    ledger::insert(file, opened.path, (time, source));
    report(RecordKind::Open, file, opened, -1, (time, source));
}

/// `do_dentry_open(file, ...)` begins, where its return is not to be had: a kretprobe has a few instances for the
/// whole system, and opens of FIFOs that block would take them all. With `O_PATH` it cannot fail.
#[inline(always)]
pub(crate) fn open_begins(file: u64) {
    if read::<u32>(file, offset!(file_flags)).is_some_and(|flags| flags & O_PATH != 0) {
        opened(file);
    }
}

/// `file_ra_state_init(&file->f_ra, mapping)`: what `do_dentry_open` calls once the file system has opened a file (5.10
/// to 7.2). Others call it for readahead states of their own, which belong to no file: the mapping tells.
#[inline(always)]
pub(crate) fn readahead_set_up(readahead: u64, mapping: u64) {
    let offset = offset!(file_ra);
    if offset == ABSENT || mapping == 0 {
        return;
    }
    let file = readahead.wrapping_sub(u64::from(offset));
    if read(file, offset!(file_mapping)) == Some(mapping) {
        opened(file);
    }
}

/// `__fput(file)`: the last reference went.
#[inline(always)]
pub(crate) fn closed(file: u64) {
    let time = now();
    let known = ledger::remove(file, time);
    // Its mount may be watched no more, but whoever was told of the open is told of the close.
    let opened = match opened_on(file) {
        None if known => OpenedOn::default(),
        None => return,
        Some(opened) => opened,
    };
    report(RecordKind::Close, file, opened, -1, (time, source()));
}

/// Where a file was opened.
#[derive(Clone, Copy, Default)]
struct OpenedOn {
    path: PathRef,
    watch: u64,
}

/// `None` where nobody wants to know: the mount is not watched, or it is ebusy itself that has it open.
#[inline(always)]
fn opened_on(file: u64) -> Option<OpenedOn> {
    let Some(path) = path(file, offset!(file_path)) else {
        lose(Loss::OpenFault);
        return None;
    };
    let watch = watch_of(path.mount)?;
    let (tgid, _) = ids();
    (tgid != own_tgid()).then_some(OpenedOn { path, watch })
}

#[inline(always)]
fn report(kind: RecordKind, file: u64, opened: OpenedOn, fd: i32, (time, source): (u64, u64)) {
    if !admit(source, Room::Open) {
        return;
    }
    match ring_of(source).reserve::<OpenRecord>(0) {
        Some(entry) => fill(entry, kind, file, opened, fd, (time, source)),
        None => lose(Loss::OpenRingFull),
    }
}

/// The number of a watched mount; 0 for one that user space has not seen yet: of a file system that is watched (a copy
/// in a namespace that was just made), or just made itself. `None` for all others.
#[inline(always)]
fn watch_of(mount: u64) -> Option<u64> {
    if let Some(watched) = WATCHED.get_ptr(mount) {
        // SAFETY: a pointer that the map returned is valid.
        let watched = unsafe { *watched };
        if read::<u32>(mount, offset!(mount_id)) == Some(watched.mount_id) {
            return (watched.watch != 0).then_some(watched.watch);
        }
        // The address is that of a newer mount now.
    }
    let superblock: u64 = read(mount, offset!(mount_sb))?;
    if WATCHED_SUPERBLOCKS.get_ptr(superblock).is_some() {
        return Some(0);
    }
    // SAFETY: a pointer that the map returned is valid.
    let id = unsafe { *NEW_MOUNTS.get_ptr(mount)? };
    (read::<u32>(mount, offset!(mount_id)) == Some(id)).then_some(0)
}

#[inline(always)]
fn fill(
    mut entry: RingBufEntry<OpenRecord>,
    kind: RecordKind,
    file: u64,
    opened: OpenedOn,
    fd: i32,
    (time, source): (u64, u64),
) {
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is of this type, and every field is written.
    unsafe {
        write_header(&raw mut (*record).header, kind, size_of::<OpenRecord>(), source);
        // The ledger has the same time.
        (*record).header.time = time;
        (*record).file = file;
        (*record).path = opened.path;
        (*record).watch = opened.watch;
        (*record).fd = fd;
        (*record).flags = read(file, offset!(file_flags)).unwrap_or(0);
        (*record).mode = read(file, offset!(file_mode)).unwrap_or(0);
        (*record).inode_mode = inode_mode(file);
        (*record).name = read(opened.path.dentry, offset!(dentry_hash_len)).unwrap_or(0);
    }
    entry.submit(0);
}

/// Type and permissions of the inode of a file.
#[inline(always)]
pub(crate) fn inode_mode(file: u64) -> u32 {
    let Some(inode) = read::<u64>(file, offset!(file_inode)) else {
        return 0;
    };
    match read::<u16>(inode, offset!(inode_mode)) {
        Some(mode) => u32::from(mode),
        None => 0,
    }
}
