//! Threads that come into another mount namespace.

use aya_ebpf::programs::TracePointContext;
use tracer_common::{Loss, NamespaceRecord, RecordKind, Room, namespace_operation};

use crate::{
    kernel::{current, mount_namespace, offset, read},
    lose,
    source::{admit, ring_of, source},
    task::write_header,
};

/// Offset of the result in `syscalls:sys_exit_*`.
const RESULT: usize = 16;

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

/// `copy_mnt_ns` returned a namespace: with `CLONE_NEWNS` a new one, else that of the running thread, which called
/// clone or unshare.
#[inline(always)]
pub(crate) fn copied(namespace: u64) {
    // An error is a pointer whose number field is not readable.
    let inum = read::<u32>(namespace, offset!(mnt_ns_inum)).unwrap_or(0);
    if inum != 0 && inum != mount_namespace(current()) {
        emit(namespace_operation::UNSHARE, inum);
    }
}

/// `switch_task_namespaces(task, nsproxy)`; without an nsproxy the task exits.
#[inline(always)]
pub(crate) fn switched(task: u64, nsproxy: u64) {
    if nsproxy == 0 {
        return;
    }
    let Some(namespace) = read::<u64>(nsproxy, offset!(nsproxy_mnt_ns)) else {
        return;
    };
    let inum = read::<u32>(namespace, offset!(mnt_ns_inum)).unwrap_or(0);
    if inum != 0 && inum != mount_namespace(task) {
        emit(namespace_operation::SETNS, inum);
    }
}

#[inline(always)]
fn emit(operation: u32, inum: u32) {
    let source = source();
    if !admit(source, Room::Namespace) {
        return;
    }
    let Some(mut entry) = ring_of(source).reserve::<NamespaceRecord>(0) else {
        return lose(Loss::NamespaceRingFull);
    };
    let parent: u64 = read(current(), offset!(task_real_parent)).unwrap_or(0);
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is of this type, and every field is written.
    unsafe {
        write_header(
            &raw mut (*record).header,
            RecordKind::Namespace,
            size_of::<NamespaceRecord>(),
            source,
        );
        (*record).header.mnt_ns = inum;
        (*record).operation = operation;
        (*record).parent = read(parent, offset!(task_tgid)).unwrap_or(0);
    }
    entry.submit(0);
}
