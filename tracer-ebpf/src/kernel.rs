//! Reads of kernel memory by the offsets of the layout table. Nothing is dereferenced: every read may fail.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};
use tracer_common::{ABSENT, PathRef};

/// The offset of a field; a constant to the verifier.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static is valid; volatile, because the loader changes it behind the compiler's back.
        unsafe { core::ptr::read_volatile(&raw const $crate::LAYOUT.$field) }
    };
}
pub(crate) use offset;

/// Reads a `T` at `base + offset`; `None` for a field that is absent and for memory that is not readable.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address and fails where it cannot be read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// The running thread.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// A `struct path`, with the mount instead of its `vfsmount`.
#[inline(always)]
pub(crate) fn path(base: u64, offset: u32) -> Option<PathRef> {
    if offset == ABSENT {
        return None;
    }
    let base = base + u64::from(offset);
    let vfsmount: u64 = read(base, offset!(path_mnt))?;
    let dentry: u64 = read(base, offset!(path_dentry))?;
    Some(PathRef {
        mount: mount_of(vfsmount),
        dentry,
    })
}

/// `struct mount` of its `vfsmount`.
#[inline(always)]
pub(crate) fn mount_of(vfsmount: u64) -> u64 {
    if vfsmount == 0 {
        0
    } else {
        vfsmount - u64::from(offset!(mount_mnt))
    }
}

/// Number of the mount namespace of a thread; 0 where it has none (any more).
#[inline(always)]
pub(crate) fn mount_namespace(task: u64) -> u32 {
    let Some(nsproxy) = read::<u64>(task, offset!(task_nsproxy)) else {
        return 0;
    };
    let Some(namespace) = read::<u64>(nsproxy, offset!(nsproxy_mnt_ns)) else {
        return 0;
    };
    read(namespace, offset!(mnt_ns_inum)).unwrap_or(0)
}
