//! Who is running.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_comm, bpf_ktime_get_boot_ns, bpf_probe_read_kernel},
};
use tracer_common::{ANCESTORS, Ancestor, COMM_LEN, Header, RecordKind};

use crate::kernel::{current, mount_namespace, offset, read};

/// Boot clock, ns.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Thread and process id, as the host sees them.
#[inline(always)]
pub(crate) fn ids() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

/// Fills in the header of a record of the running thread, where it is: a header that is handed over on the stack makes
/// the compiler spill registers that one branch has not written, and the verifier refuses to read those back before
/// Linux 6.3.
///
/// # Safety
/// `out` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn write_header(out: *mut Header, kind: RecordKind, len: usize, source: u64) {
    let task = current();
    let (tgid, tid) = ids();
    let leader: u64 = read(task, offset!(task_group_leader)).unwrap_or(task);
    // SAFETY: as the caller promised; the helper clears the name where it fails.
    unsafe {
        (*out).kind = kind as u32;
        (*out).len = len as u32;
        (*out).time = now();
        (*out).tgid = tgid;
        (*out).tid = tid;
        (*out).start = read(leader, offset!(task_start_boottime)).unwrap_or(0);
        (*out).uid = bpf_get_current_uid_gid() as u32;
        (*out).mnt_ns = mount_namespace(task);
        (*out).source = source;
        bpf_get_current_comm((&raw mut (*out).comm).cast(), COMM_LEN as u32);
    }
}

/// Writes the ancestors of the running process, nearest first; returns how many.
///
/// # Safety
/// `out` has room for [`ANCESTORS`].
#[inline(always)]
pub(crate) unsafe fn ancestors(out: *mut Ancestor) -> u32 {
    let mut task: u64 = read(current(), offset!(task_group_leader)).unwrap_or(0);
    let mut count = 0;
    for slot in 0..ANCESTORS {
        let Some(parent) = read::<u64>(task, offset!(task_real_parent)) else {
            break;
        };
        let tgid: u32 = read(parent, offset!(task_tgid)).unwrap_or(0);
        if tgid == 0 {
            break;
        }
        let leader: u64 = read(parent, offset!(task_group_leader)).unwrap_or(parent);
        // SAFETY: `slot` is below ANCESTORS; the helper checks the source, and clears the name where it fails.
        unsafe {
            let ancestor = out.add(slot);
            (*ancestor).tgid = tgid;
            (*ancestor).reserved = 0;
            bpf_probe_read_kernel(
                (&raw mut (*ancestor).comm).cast(),
                COMM_LEN as u32,
                (leader + u64::from(offset!(task_comm))) as *const _,
            );
        };
        count += 1;
        task = leader;
    }
    count
}
