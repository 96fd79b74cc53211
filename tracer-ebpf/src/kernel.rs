//! Reads of kernel memory by the offsets of the layout table. Nothing is dereferenced: every read may fail.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel, generated};
use tracer_common::{ABSENT, PathRef};

/// The offset of a field; a constant to the verifier.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::loaded(&$crate::LAYOUT.$field)
    };
}
pub(crate) use offset;

/// What the loader made of a static.
#[inline(always)]
pub(crate) fn loaded(value: &u32) -> u32 {
    // SAFETY: a reference is valid; volatile, because the loader changes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(value) }
}

/// Reads a `T` at `base + offset`; `None` for a field that is absent and for memory that is not readable.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address and fails where it cannot be read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Copies by one call of a helper. Of an assignment of many bytes the compiler makes a loop over bytes, which the verifier
/// walks byte by byte, and the kernel for each record.
///
/// # Safety
/// `out` is valid for writes, `from` for reads.
#[inline(always)]
pub(crate) unsafe fn copy<T>(out: *mut T, from: *const T) {
    // SAFETY: as the caller promised.
    unsafe { generated::bpf_probe_read_kernel(out.cast(), size_of::<T>() as u32, from.cast()) };
}

/// Zeroes likewise: the helper clears what it was to write where it cannot read.
///
/// # Safety
/// `out` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn clear<T>(out: *mut T) {
    // SAFETY: as the caller promised; the null pointer is what cannot be read.
    unsafe { copy(out, core::ptr::null()) };
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
    if base == 0 || offset == ABSENT {
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

/// Reads a `struct path` to where it is wanted; zero where it is not readable. Not by way of an option with a default:
/// of that the compiler spills registers that one branch has not written, and before Linux 6.3 the verifier refuses to
/// read those back.
///
/// # Safety
/// `out` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn write_path(out: *mut PathRef, base: u64, offset: u32) {
    // SAFETY: as the caller promised.
    unsafe {
        (*out).mount = 0;
        (*out).dentry = 0;
        if let Some(path) = path(base, offset) {
            (*out).mount = path.mount;
            (*out).dentry = path.dentry;
        }
    }
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
