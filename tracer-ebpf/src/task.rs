//! Who is running.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_ktime_get_boot_ns,
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

/// The header of a record of the running thread.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, len: usize) -> Header {
    let task = current();
    let (tgid, tid) = ids();
    let leader: u64 = read(task, offset!(task_group_leader)).unwrap_or(task);
    Header {
        kind: kind as u32,
        len: len as u32,
        time: now(),
        tgid,
        tid,
        start: read(leader, offset!(task_start_boottime)).unwrap_or(0),
        uid: bpf_get_current_uid_gid() as u32,
        mnt_ns: mount_namespace(task),
        comm: bpf_get_current_comm().unwrap_or([0; COMM_LEN]),
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
        let comm = read(leader, offset!(task_comm)).unwrap_or([0; COMM_LEN]);
        // SAFETY: `slot` is below ANCESTORS.
        unsafe {
            out.add(slot).write(Ancestor {
                tgid,
                reserved: 0,
                comm,
            });
        };
        count += 1;
        task = leader;
    }
    count
}
