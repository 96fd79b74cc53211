//! The ledger: files that are open on watched mounts. It survives what the event ring loses.

use aya_ebpf::helpers::{bpf_get_current_uid_gid, generated::bpf_get_current_comm};
use tracer_common::{COMM_LEN, ClosedKey, LedgerEntry, Loss, PathRef};

use crate::{
    CLOSED, LEDGER,
    kernel::{current, mount_namespace, offset, read},
    lose,
    open::inode_mode,
    task::ids,
};

/// What an entry is before it is written.
static BLANK: LedgerEntry = LedgerEntry {
    opened: 0,
    closed: 0,
    path: PathRef { mount: 0, dentry: 0 },
    start: 0,
    name: 0,
    mount_id: 0,
    tgid: 0,
    tid: 0,
    uid: 0,
    mnt_ns: 0,
    flags: 0,
    mode: 0,
    inode_mode: 0,
    comm: [0; COMM_LEN],
};

/// Enters a file that was just opened, at `opened`. Written in place, as the records are: see `task::write_header`.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value would be copied to the stack, which is small"
)]
pub(crate) fn insert(file: u64, path: PathRef, opened: u64) {
    // Whatever had this address before is closed, even where that was missed.
    if LEDGER.insert(file, &BLANK, 0).is_err() {
        return lose(Loss::LedgerFull);
    }
    let Some(entry) = LEDGER.get_ptr_mut(file) else {
        return;
    };
    let task = current();
    let (tgid, tid) = ids();
    let leader: u64 = read(task, offset!(task_group_leader)).unwrap_or(task);
    // SAFETY: a pointer that the map returned is valid; nobody else knows this file yet, and user space takes an
    // entry without a time for one that is not written.
    unsafe {
        (*entry).path = path;
        (*entry).start = read(leader, offset!(task_start_boottime)).unwrap_or(0);
        (*entry).name = read(path.dentry, offset!(dentry_hash_len)).unwrap_or(0);
        (*entry).mount_id = read(path.mount, offset!(mount_id)).unwrap_or(0);
        (*entry).tgid = tgid;
        (*entry).tid = tid;
        (*entry).uid = bpf_get_current_uid_gid() as u32;
        (*entry).mnt_ns = mount_namespace(task);
        (*entry).flags = read(file, offset!(file_flags)).unwrap_or(0);
        (*entry).mode = read(file, offset!(file_mode)).unwrap_or(0);
        (*entry).inode_mode = inode_mode(file);
        bpf_get_current_comm((&raw mut (*entry).comm).cast(), COMM_LEN as u32);
        (*entry).opened = opened;
    }
}

/// Moves a file to those that were closed lately; whether it was there.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value would be copied to the stack, which is small"
)]
pub(crate) fn remove(file: u64, closed: u64) -> bool {
    let Some(entry) = LEDGER.get_ptr_mut(file) else {
        return false;
    };
    // SAFETY: a pointer that the map returned is valid; this is the last reference to the file.
    unsafe {
        (*entry).closed = closed;
        let key = ClosedKey {
            file,
            opened: (*entry).opened,
        };
        let _ = CLOSED.insert(key, &*entry, 0);
    }
    let _ = LEDGER.remove(file);
    true
}
