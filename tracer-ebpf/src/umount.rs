//! umount2: the call, its result, and at the fentry and kprobe tiers what the kernel compared.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user_str},
    maps::ring_buf::RingBufEntry,
    programs::TracePointContext,
};
use tracer_common::{
    COMPARED_MAX, Compared, HOST, Loss, PATH_MAX, RecordKind, Room, UmountCall, UmountRecord, path_status,
};

use crate::{
    EVENTS, OTHERS, OTHERS_UNDER_WAY, REFUSALS, UNDER_WAY,
    kernel::{clear, copy, current, offset, read, write_path},
    lose,
    source::{admit, leave, source},
    task::{ancestors, ids, now, write_header},
};

/// Offsets in the records of `syscalls:sys_enter_*` and `sys_exit_*`, which are part of the kernel's interface:
/// the arguments from 16 on, the result at 16.
const ARGUMENTS: usize = 16;
const RESULT: usize = 16;

const EBUSY: i64 = -16;

/// The blank call is copied from here: it is larger than a BPF stack.
static BLANK: UmountCall = UmountCall::BLANK;

/// `path` is text in user memory, `target` a `struct path`: each tier has one of them, and 0 for the other.
#[inline(always)]
fn begin(entered: u64, path: u64, target: u64, flags: u32) {
    let (_, tid) = ids();
    let source = source();
    if let Some(before) = call_of(tid) {
        // A kretprobe that had no instance left, or a run that the kernel skipped.
        lose(Loss::UmountReturnMissing);
        // SAFETY: a pointer that the map returned is valid; only this thread uses its key.
        end(tid, unsafe { (*before).source });
    }
    if !admit(source, Room::UnderWay) {
        return;
    }
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a value would be copied to the stack"
    )]
    let inserted = if source == HOST {
        UNDER_WAY.insert(tid, &BLANK, 0)
    } else {
        OTHERS_UNDER_WAY.insert(tid, &BLANK, 0)
    };
    if inserted.is_err() {
        leave(source, Room::UnderWay);
        lose(Loss::UmountTableFull);
        return;
    }
    if let Some(call) = call_of(tid) {
        // SAFETY: a pointer that the map returned is valid; only this thread uses its key.
        unsafe {
            (*call).task = current();
            (*call).source = source;
            (*call).entered = entered;
            (*call).path = path;
            write_path(&raw mut (*call).target, target, 0);
            (*call).target_number = 0;
            if let Some(unique) = read::<u64>((*call).target.mount, offset!(mount_id_unique)) {
                (*call).target_number = unique;
            } else if let Some(id) = read::<u32>((*call).target.mount, offset!(mount_id)) {
                (*call).target_number = u64::from(id);
            }
            (*call).flags = flags;
            if path != 0 {
                let (status, len) = user_text((&raw mut (*call).text).cast(), path);
                (*call).path_len = len;
                (*call).path_status = status;
            }
        }
    }
}

/// The call of a thread.
#[inline(always)]
fn call_of(tid: u32) -> Option<*mut UmountCall> {
    if let Some(call) = UNDER_WAY.get_ptr_mut(tid) {
        return Some(call);
    }
    OTHERS_UNDER_WAY.get_ptr_mut(tid)
}

/// It is over.
#[inline(always)]
fn end(tid: u32, source: u64) {
    if source == HOST {
        let _ = UNDER_WAY.remove(tid);
    } else {
        let _ = OTHERS_UNDER_WAY.remove(tid);
        leave(source, Room::UnderWay);
    }
}

/// Reads a path of user memory, as far as it is there: [`path_status`], and bytes without the NUL.
///
/// # Safety
/// `out` has room for [`PATH_MAX`].
#[inline(always)]
unsafe fn user_text(out: *mut c_void, path: u64) -> (u32, u32) {
    // SAFETY: as the caller promised; the helper checks the source.
    let copied = unsafe { bpf_probe_read_user_str(out, PATH_MAX as u32, path as *const _) };
    if copied > 0 {
        (path_status::WHOLE, copied as u32 - 1)
    } else {
        (path_status::FAULT, 0)
    }
}

/// `sys_enter_umount`.
#[inline(always)]
pub(crate) fn enter(ctx: &TracePointContext) {
    // SAFETY: the record of a system call with two arguments is 32 bytes long.
    let (name, flags) = unsafe { (ctx.read_at::<u64>(ARGUMENTS), ctx.read_at::<u64>(ARGUMENTS + 8)) };
    begin(now(), name.unwrap_or(0), 0, flags.unwrap_or(0) as u32);
}

/// `sys_exit_umount`.
#[inline(always)]
pub(crate) fn exit(ctx: &TracePointContext) {
    // SAFETY: the record of a return is 24 bytes long.
    let ret: i64 = unsafe { ctx.read_at(RESULT) }.unwrap_or(0);
    finish(ret);
}

/// `path_umount(path, flags)`.
#[inline(always)]
pub(crate) fn path_umount_entry(path: u64, flags: u32) {
    begin(now(), 0, path, flags);
}

/// `propagate_mount_busy(mount, expected)`.
#[inline(always)]
pub(crate) fn busy_check_entry() {
    let (_, tid) = ids();
    if let Some(call) = call_of(tid) {
        // SAFETY: as in `begin`.
        unsafe {
            (*call).in_busy_check = 1;
            (*call).busy_check_ran = 1;
        }
    }
}

/// The return of `propagate_mount_busy`.
#[inline(always)]
pub(crate) fn busy_check_exit() {
    let (_, tid) = ids();
    if let Some(call) = call_of(tid) {
        // SAFETY: as in `begin`.
        unsafe {
            (*call).in_busy_check = 0;
            if (*call).counting != 0 {
                count_missing(call);
            }
        }
    }
}

/// `mnt_get_count(mount)`, where only its entry has the mount.
#[inline(always)]
pub(crate) fn count_entry(mount: u64) {
    let (_, tid) = ids();
    let Some(call) = call_of(tid) else {
        return;
    };
    // SAFETY: as in `begin`.
    unsafe {
        if (*call).in_busy_check == 0 {
            return;
        }
        if (*call).counting != 0 {
            count_missing(call);
        }
        (*call).counting = mount;
    }
}

/// The return of a `mnt_get_count` whose entry was seen.
#[inline(always)]
pub(crate) fn count_return(count: i32) {
    let (_, tid) = ids();
    let Some(call) = call_of(tid) else {
        return;
    };
    // SAFETY: as in `begin`.
    unsafe {
        let mount = (*call).counting;
        (*call).counting = 0;
        if mount != 0 {
            compared(call, mount, count);
        }
    }
}

/// The return of `mnt_get_count(mount)`.
#[inline(always)]
pub(crate) fn count_exit(mount: u64, count: i32) {
    let (_, tid) = ids();
    let Some(call) = call_of(tid) else {
        return;
    };
    // SAFETY: as in `begin`.
    unsafe { compared(call, mount, count) };
}

/// A return of `mnt_get_count` was not seen: what is known of this busy check is not to be trusted.
///
/// # Safety
/// `call` is valid, and that of this thread.
#[inline(always)]
unsafe fn count_missing(call: *mut UmountCall) {
    lose(Loss::CountReturnMissing);
    // SAFETY: as the caller promised.
    unsafe {
        (*call).counting = 0;
        (*call).busy_check_ran = 0;
    }
}

/// # Safety
/// `call` is valid, and that of this thread.
#[inline(always)]
unsafe fn compared(call: *mut UmountCall, mount: u64, count: i32) {
    // SAFETY: as the caller promised; the index is below COMPARED_MAX.
    unsafe {
        if (*call).in_busy_check == 0 {
            return;
        }
        let seen = (*call).compared_count;
        // The last one is the guilty one, so it always has the last place.
        let index = if seen as usize >= COMPARED_MAX {
            COMPARED_MAX - 1
        } else {
            seen as usize
        };
        let slot = (&raw mut (*call).compared)
            .cast::<Compared>()
            .add(index & (COMPARED_MAX - 1));
        slot.write(Compared {
            mount,
            count,
            reserved: 0,
        });
        (*call).compared_count = seen + 1;
        (*call).checked = now();
    }
}

/// The umount of this thread returned. That of others had no room, and is counted already.
#[inline(always)]
pub(crate) fn finish(ret: i64) {
    if !finished(ret) && source() == HOST {
        lose(Loss::UmountEntryMissing);
    }
}

/// The same for one of two programs that see the return: an entry that is missing was counted where it was missed.
#[inline(always)]
pub(crate) fn finish_once(ret: i64) {
    finished(ret);
}

/// Whether the umount of this thread was under way.
#[inline(always)]
fn finished(ret: i64) -> bool {
    let (_, tid) = ids();
    let Some(call) = call_of(tid) else {
        return false;
    };
    // SAFETY: the map's pointer stays valid until this program returns.
    let call = unsafe { &*call };
    let source = call.source;
    if admit(source, Room::Umount) {
        let (ring, full) = if source != HOST {
            (&OTHERS, Loss::UmountRingFull)
        } else if ret == EBUSY {
            (&REFUSALS, Loss::RefusalRingFull)
        } else {
            (&EVENTS, Loss::UmountRingFull)
        };
        match ring.reserve::<UmountRecord>(0) {
            Some(entry) => fill(entry, call, ret),
            None => lose(full),
        }
    }
    end(tid, source);
    true
}

#[inline(always)]
fn fill(mut entry: RingBufEntry<UmountRecord>, call: &UmountCall, ret: i64) {
    let record = entry.as_mut_ptr();
    let task = current();
    let fs: u64 = read(task, offset!(task_fs)).unwrap_or(0);
    // SAFETY: the reservation is of this type; every field is written, so that nothing of the ring leaks.
    unsafe {
        write_header(
            &raw mut (*record).header,
            RecordKind::Umount,
            size_of::<UmountRecord>(),
            call.source,
        );
        (*record).task = call.task;
        (*record).entered = call.entered;
        (*record).checked = call.checked;
        (*record).ret = ret;
        (*record).flags = call.flags;
        write_path(&raw mut (*record).cwd, fs, offset!(fs_pwd));
        write_path(&raw mut (*record).root, fs, offset!(fs_root));
        (*record).target = call.target;
        (*record).target_number = call.target_number;
        (*record).busy_check_ran = call.busy_check_ran;
        (*record).compared_count = call.compared_count;
        copy(&raw mut (*record).compared, &raw const call.compared);
        if call.compared_count as usize > COMPARED_MAX {
            lose(Loss::UmountComparedTruncated);
        }
        clear(&raw mut (*record).ancestors);
        (*record).ancestor_count = ancestors((&raw mut (*record).ancestors).cast());
        let (status, len) = if call.path_status == path_status::WHOLE {
            let text = (&raw const call.text).cast();
            bpf_probe_read_kernel((&raw mut (*record).path).cast(), PATH_MAX as u32, text);
            (path_status::WHOLE, call.path_len)
        } else if call.path == 0 {
            (path_status::ABSENT, 0)
        } else {
            // Its page was not there at the entry; the call itself has read it since.
            let (status, len) = user_text((&raw mut (*record).path).cast(), call.path);
            if status == path_status::FAULT {
                lose(Loss::UmountPathFault);
            }
            (status, len)
        };
        (*record).path_status = status;
        (*record).path_len = len;
    }
    entry.submit(0);
}
