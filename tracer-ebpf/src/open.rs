//! Files opened on watched mounts, and closed for good.

use aya_ebpf::{
    maps::ring_buf::RingBufEntry,
    programs::{FEntryContext, FExitContext, TracePointContext},
};
use tracer_common::{ABSENT, Loss, OpenRecord, PathRef, RecordKind};

use crate::{
    CONFIG, EVENTS, WATCHED, WATCHED_SUPERBLOCKS,
    kernel::{current, offset, path, read},
    lose,
    task::{header, ids},
};

/// Offset of the result in `syscalls:sys_exit_*`.
const RESULT: usize = 16;

#[inline(always)]
fn own_tgid() -> u32 {
    // SAFETY: a static is valid; volatile, because the loader changes it.
    unsafe { core::ptr::read_volatile(&raw const CONFIG.own_tgid) }
}

/// Return of `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`: the result is a descriptor of the running thread.
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
    report(RecordKind::Open, file, fd as i32);
}

#[inline(always)]
fn file_of(fd: u64) -> Option<u64> {
    let files: u64 = read(current(), offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let array: u64 = read(table, offset!(fdt_fd))?;
    if fd >= 1 << 30 {
        return None;
    }
    read(array + fd * 8, 0)
}

/// `do_dentry_open` returned; a failed open has its path zeroed. The result comes after the parameters: a register
/// that points to them must not be computed, so there is a program for each number.
#[inline(always)]
pub(crate) fn do_dentry_open_exit(ctx: &FExitContext, ret: i32) {
    let file: *const u8 = ctx.arg(0);
    if ret == 0 {
        report(RecordKind::Open, file as u64, -1);
    }
}

/// `__fput(file)`: the last reference went.
#[inline(always)]
pub(crate) fn fput_entry(ctx: &FEntryContext) {
    let file: *const u8 = ctx.arg(0);
    report(RecordKind::Close, file as u64, -1);
}

#[inline(always)]
fn report(kind: RecordKind, file: u64, fd: i32) {
    let Some(path) = path(file, offset!(file_path)) else {
        return lose(Loss::OpenFault);
    };
    let Some(watch) = watch_of(path.mount) else { return };
    let (tgid, _) = ids();
    if tgid == own_tgid() {
        return;
    }
    match EVENTS.reserve::<OpenRecord>(0) {
        Some(entry) => fill(entry, kind, file, path, watch, fd),
        None => lose(Loss::OpenRingFull),
    }
}

/// The number of a watched mount; 0 for one that user space has not seen yet, of a file system that is watched: a copy
/// in a namespace that was just made. `None` for all others.
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
    WATCHED_SUPERBLOCKS.get_ptr(superblock).map(|_| 0)
}

#[inline(always)]
fn fill(
    mut entry: RingBufEntry<OpenRecord>,
    kind: RecordKind,
    file: u64,
    path: PathRef,
    watch: u64,
    fd: i32,
) {
    let flags = if offset!(file_flags) == ABSENT {
        0
    } else {
        read(file, offset!(file_flags)).unwrap_or(0)
    };
    entry.write(OpenRecord {
        header: header(kind, size_of::<OpenRecord>()),
        file,
        path,
        watch,
        fd,
        flags,
    });
    entry.submit(0);
}
