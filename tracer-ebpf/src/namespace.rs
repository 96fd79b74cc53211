//! Threads that come into another mount namespace.

use aya_ebpf::programs::{FEntryContext, FExitContext, TracePointContext};
use tracer_common::{Loss, NamespaceRecord, RecordKind, namespace_operation};

use crate::{
    EVENTS,
    kernel::{current, mount_namespace, offset, read},
    lose,
    task::header,
};

/// Offset of the result in `syscalls:sys_exit_*`.
const RESULT: usize = 16;
/// `CLONE_NEWNS`.
const NEW_MOUNT_NAMESPACE: u64 = 0x2_0000;

/// Return of setns or unshare: the namespace may have changed.
#[inline(always)]
pub(crate) fn exit(ctx: &TracePointContext, operation: u32) {
    // SAFETY: the record of a return is 24 bytes long.
    if unsafe { ctx.read_at::<i64>(RESULT) } == Ok(0) {
        emit(operation, mount_namespace(current()));
    }
}

/// Return of clone or clone3, in the child: is it in another namespace than its parent?
#[inline(always)]
pub(crate) fn exit_clone(ctx: &TracePointContext) {
    // SAFETY: the record of a return is 24 bytes long.
    if unsafe { ctx.read_at::<i64>(RESULT) } != Ok(0) {
        return;
    }
    let task = current();
    let Some(parent) = read::<u64>(task, offset!(task_real_parent)) else {
        return;
    };
    let own = mount_namespace(task);
    if own != mount_namespace(parent) {
        emit(namespace_operation::CLONE, own);
    }
}

/// `copy_mnt_ns(flags, ...)` returned a namespace: with `CLONE_NEWNS` a new one. The running thread is the one
/// that called clone or unshare.
#[inline(always)]
pub(crate) fn copy_mnt_ns_exit(ctx: &FExitContext) {
    let flags: u64 = ctx.arg(0);
    if flags & NEW_MOUNT_NAMESPACE == 0 {
        return;
    }
    // Four parameters on every kernel from 5.10 to 7.2; the result comes after them.
    let namespace: *const u8 = ctx.arg(4);
    // An error is a pointer whose number field is not readable.
    if let Some(inum) = read::<u32>(namespace as u64, offset!(mnt_ns_inum)) {
        emit(namespace_operation::UNSHARE, inum);
    }
}

/// `switch_task_namespaces(task, nsproxy)`; without an nsproxy the task exits.
#[inline(always)]
pub(crate) fn switch_entry(ctx: &FEntryContext) {
    let task: *const u8 = ctx.arg(0);
    let nsproxy: *const u8 = ctx.arg(1);
    if nsproxy.is_null() {
        return;
    }
    let Some(namespace) = read::<u64>(nsproxy as u64, offset!(nsproxy_mnt_ns)) else {
        return;
    };
    let inum = read::<u32>(namespace, offset!(mnt_ns_inum)).unwrap_or(0);
    if inum != 0 && inum != mount_namespace(task as u64) {
        emit(namespace_operation::SETNS, inum);
    }
}

#[inline(always)]
fn emit(operation: u32, inum: u32) {
    let Some(mut entry) = EVENTS.reserve::<NamespaceRecord>(0) else {
        return lose(Loss::NamespaceRingFull);
    };
    let parent: u64 = read(current(), offset!(task_real_parent)).unwrap_or(0);
    let mut header = header(RecordKind::Namespace, size_of::<NamespaceRecord>());
    header.mnt_ns = inum;
    entry.write(NamespaceRecord {
        header,
        operation,
        parent: read(parent, offset!(task_tgid)).unwrap_or(0),
    });
    entry.submit(0);
}
