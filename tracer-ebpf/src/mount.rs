//! Changes of mount trees: that there was one, and user space looks at the trees again. What cannot wait for that look
//! is done here: a file system that was just mounted is watched from its first moment, and what was ignored is not any
//! more when it is freed, because its address and its id are given away at once.

use aya_ebpf::programs::{FExitContext, TracePointContext};
use tracer_common::{ABSENT, HOST, Loss, MountRecord, RecordKind, Room, watched_superblock};

use crate::{
    MOUNTS_CHANGED, NEW_MOUNTS, WATCHED, WATCHED_SUPERBLOCKS,
    kernel::{offset, read},
    lose,
    source::{admit, ring_of, source},
    task::write_header,
};

/// Flags of `clone_mnt` (fs/pnode.h, the same from 5.10 to 7.2): a copy for a new mount namespace, and one that has no
/// peers, which is what overlayfs keeps of its layers.
const CL_COPY_UNBINDABLE: i32 = 0x04;
const CL_PRIVATE: i32 = 0x10;

/// Offsets of the number and the result in `syscalls:sys_exit_*`.
const NUMBER: usize = 8;
const RESULT: usize = 16;

/// Return of `mount`, `move_mount`, `mount_setattr` or `pivot_root`.
#[inline(always)]
pub(crate) fn exit(ctx: &TracePointContext) {
    // SAFETY: the record of a return is 24 bytes long.
    let (number, ret) = unsafe { (ctx.read_at::<u32>(NUMBER), ctx.read_at::<i64>(RESULT)) };
    if ret == Ok(0) {
        emit(number.unwrap_or(0));
    }
}

/// `attach_recursive_mnt` returned.
#[inline(always)]
pub(crate) fn attached() {
    emit(0);
}

/// `attach_recursive_mnt(mount, ...)` begins: nobody can open anything through that mount yet.
#[inline(always)]
pub(crate) fn attaching(mount: u64) {
    let Some(superblock) = read::<u64>(mount, offset!(mount_sb)) else {
        return;
    };
    // Others keep what user space made of them: binds of a busy file system are many. This also tells that it is a
    // mount at all, where the compiler made a clone of the function with arguments of its own choice.
    if is_only_mount(superblock, mount)
        && admit(source(), Room::Mount)
        && WATCHED_SUPERBLOCKS
            .insert(superblock, watched_superblock::NEW, 0)
            .is_err()
    {
        lose(Loss::SuperblockTableFull);
    }
}

/// Whether the list of a superblock's mounts has this one and no other.
#[inline(always)]
fn is_only_mount(superblock: u64, mount: u64) -> bool {
    if offset!(mount_next_for_sb) != ABSENT {
        return read(superblock, offset!(sb_mounts)) == Some(mount)
            && read(mount, offset!(mount_next_for_sb)) == Some(0u64);
    }
    if offset!(mount_instance) == ABSENT || offset!(sb_mounts) == ABSENT {
        return false;
    }
    let head = superblock + u64::from(offset!(sb_mounts));
    let link = mount + u64::from(offset!(mount_instance));
    read(head, 0) == Some(link) && read(link, 0) == Some(head)
}

/// `cleanup_mnt(mount)`: its address and its id are free from now on.
#[inline(always)]
pub(crate) fn freed(mount: u64) {
    let _ = WATCHED.remove(mount);
    let _ = NEW_MOUNTS.remove(mount);
}

/// `clone_mnt(old, root, flags)` returned a mount. Copies of a watched mount are of a watched superblock; here are those
/// that are bound to a place that may be watched (kernel fact 18).
#[inline(always)]
pub(crate) fn cloned(ctx: &FExitContext) {
    let old: *const u8 = ctx.arg(0);
    let flags: i32 = ctx.arg(2);
    let mount: *const u8 = ctx.arg(3);
    // A copy of a new one is as new.
    let of_new = NEW_MOUNTS.get_ptr(old as u64).is_some();
    if !of_new && flags & (CL_COPY_UNBINDABLE | CL_PRIVATE) != 0 {
        return;
    }
    // An error is a pointer that is not readable.
    if let Some(id) = read::<u32>(mount as u64, offset!(mount_id))
        && admit(source(), Room::Mount)
    {
        // What is no longer there after a flood of mounts is found by user space's next look.
        let _ = NEW_MOUNTS.insert(mount as u64, id, 0);
    }
}

#[inline(always)]
fn emit(syscall: u32) {
    let source = source();
    let Some(known) = MOUNTS_CHANGED.get_ptr_mut(u32::from(source != HOST)) else {
        return;
    };
    // User space looks at all of them again: it is told once until it does.
    // SAFETY: a pointer that the map returned is valid; of two that come at once both may tell.
    if unsafe { *known } != 0 {
        return;
    }
    let Some(mut entry) = ring_of(source).reserve::<MountRecord>(0) else {
        return lose(Loss::MountRingFull);
    };
    // SAFETY: as above.
    unsafe { *known = 1 };
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is of this type, and every field is written.
    unsafe {
        write_header(
            &raw mut (*record).header,
            RecordKind::Mount,
            size_of::<MountRecord>(),
            source,
        );
        (*record).syscall = syscall;
        (*record).reserved = 0;
    }
    entry.submit(0);
}
