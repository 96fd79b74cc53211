//! The ledger: files that are open on watched mounts. It survives what the event ring loses.

use aya_ebpf::helpers::{bpf_get_current_uid_gid, generated::bpf_get_current_comm};
use tracer_common::{COMM_LEN, ClosedKey, HOST, LedgerEntry, Loss, PathRef, Room};

use crate::{
    CLOSED, LEDGER, OTHERS_CLOSED, OTHERS_LEDGER,
    kernel::{current, mount_namespace, offset, read},
    lose,
    open::inode_mode,
    source::{admit, has_room, leave},
    task::ids,
};

/// What an entry is before it is written.
static BLANK: LedgerEntry = LedgerEntry {
    opened: 0,
    closed: 0,
    path: PathRef { mount: 0, dentry: 0 },
    start: 0,
    name: 0,
    source: 0,
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

/// The entry of a file.
#[inline(always)]
fn entry_of(file: u64) -> Option<*mut LedgerEntry> {
    if let Some(entry) = LEDGER.get_ptr_mut(file) {
        return Some(entry);
    }
    OTHERS_LEDGER.get_ptr_mut(file)
}

/// Takes an entry out, and gives its room back.
#[inline(always)]
fn forget(file: u64, source: u64) {
    // Whichever it is in: what user space found has no source.
    let _ = LEDGER.remove(file);
    let _ = OTHERS_LEDGER.remove(file);
    leave(source, Room::Ledger);
}

/// Enters a file that was just opened, at `opened`. Written in place, as the records are: see `task::write_header`.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value would be copied to the stack, which is small"
)]
pub(crate) fn insert(file: u64, path: PathRef, (opened, source): (u64, u64)) {
    // Whatever had this address before is closed, even where that was missed.
    if let Some(before) = entry_of(file) {
        // SAFETY: a pointer that the map returned is valid.
        forget(file, unsafe { (*before).source });
    }
    if !admit(source, Room::Ledger) {
        return;
    }
    let inserted = if source == HOST {
        LEDGER.insert(file, &BLANK, 0)
    } else {
        OTHERS_LEDGER.insert(file, &BLANK, 0)
    };
    if inserted.is_err() {
        leave(source, Room::Ledger);
        return lose(Loss::LedgerFull);
    }
    let Some(entry) = entry_of(file) else {
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
        (*entry).source = source;
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
    let Some(entry) = entry_of(file) else {
        return false;
    };
    // SAFETY: a pointer that the map returned is valid; this is the last reference to the file.
    let source = unsafe {
        (*entry).closed = closed;
        let key = ClosedKey {
            file,
            opened: (*entry).opened,
        };
        let source = (*entry).source;
        if source == HOST {
            let _ = CLOSED.insert(key, &*entry, 0);
        } else if has_room(source, Room::Closed) {
            let _ = OTHERS_CLOSED.insert(key, &*entry, 0);
        }
        source
    };
    forget(file, source);
    true
}
