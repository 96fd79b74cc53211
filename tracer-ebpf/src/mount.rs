//! Changes of mount trees: only that there was one; user space looks at the trees again.

use aya_ebpf::programs::TracePointContext;
use tracer_common::{Loss, MountRecord, RecordKind};

use crate::{EVENTS, lose, task::header};

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

#[inline(always)]
fn emit(syscall: u32) {
    let Some(mut entry) = EVENTS.reserve::<MountRecord>(0) else {
        return lose(Loss::MountRingFull);
    };
    entry.write(MountRecord {
        header: header(RecordKind::Mount, size_of::<MountRecord>()),
        syscall,
        reserved: 0,
    });
    entry.submit(0);
}
