//! On whose account the running thread works, and whether that has room for one thing more (`tracer_common::Source`).

use aya_ebpf::{
    helpers::{
        bpf_get_current_uid_gid,
        generated::{bpf_get_current_cgroup_id, bpf_get_current_comm},
    },
    maps::RingBuf,
};
use tracer_common::{CGROUP, COMM_LEN, HOST, Loss, REST, Room, Source, WINDOW};

use crate::{
    EVENTS, OTHERS, SOURCES,
    kernel::{current, offset, read},
    task::{ids, now},
};

/// `CAP_SYS_ADMIN` (linux/capability.h).
const SYS_ADMIN: u32 = 1 << 21;
/// User namespaces in each other at the most (`create_user_ns`, the same from 5.10 to 7.2).
const NESTED_MAX: usize = 33;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

static BLANK: Source = Source::BLANK;

/// The source of the running thread. Where the kernel does not say, all are the host's.
#[inline(always)]
pub(crate) fn source() -> u64 {
    let Some(cred) = read::<u64>(current(), offset!(task_real_cred)) else {
        return HOST;
    };
    let (Some(user), Some(mut namespace)) = (
        read::<u32>(cred, offset!(cred_uid)),
        read::<u64>(cred, offset!(cred_user_ns)),
    ) else {
        return HOST;
    };
    // Of the first user namespace, which has no parent, nobody is the maker.
    let mut outermost = 0;
    for _ in 0..NESTED_MAX {
        let parent: u64 = read(namespace, offset!(user_ns_parent)).unwrap_or(0);
        if parent == 0 {
            break;
        }
        outermost = namespace;
        namespace = parent;
    }
    let account = if outermost == 0 {
        let able: u32 = read(cred, offset!(cred_cap_effective)).unwrap_or(SYS_ADMIN);
        if user == 0 && able & SYS_ADMIN != 0 {
            return HOST;
        }
        user
    } else {
        read(outermost, offset!(user_ns_owner)).unwrap_or(user)
    };
    if account != 0 {
        return u64::from(account);
    }
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_cgroup_id() | CGROUP }
}

/// The ring of a source: that of the host is its own.
#[inline(always)]
pub(crate) fn ring_of(source: u64) -> &'static RingBuf {
    if source == HOST { &EVENTS } else { &OTHERS }
}

/// Whether a source has room for one thing more, which is taken then, and counted on it otherwise.
#[inline(always)]
pub(crate) fn admit(source: u64, room: Room) -> bool {
    let has_room = has_room(source, room);
    if !has_room {
        lose(source, room.loss());
    }
    has_room
}

/// The same where nothing is lost without it.
#[inline(always)]
pub(crate) fn has_room(source: u64, room: Room) -> bool {
    if source == HOST {
        return true;
    }
    let Some(entry) = entry_of(source) else {
        return false;
    };
    let time = now();
    // SAFETY: a pointer that the map returned is valid. Threads of a source may begin a window at once, and take a few
    // more than there is room for: what is lost is counted exactly all the same.
    unsafe {
        if time - (*entry).window >= WINDOW {
            (*entry).window = time;
            (*entry).used[Room::Open as usize] = 0;
            (*entry).used[Room::Umount as usize] = 0;
            (*entry).used[Room::Operation as usize] = 0;
            (*entry).used[Room::Namespace as usize] = 0;
            (*entry).used[Room::Mount as usize] = 0;
            (*entry).used[Room::Closed as usize] = 0;
        }
        if (*entry).used[room as usize] >= u64::from(room.per_window()) {
            return false;
        }
        add(&raw mut (*entry).used[room as usize], 1);
    }
    true
}

/// Gives back what was taken of a room that is not one of a window.
#[inline(always)]
pub(crate) fn leave(source: u64, room: Room) {
    if source == HOST {
        return;
    }
    if let Some(entry) = SOURCES.get_ptr_mut(source) {
        // SAFETY: a pointer that the map returned is valid. More than was taken cannot be given back: one that user space
        // forgot meanwhile began anew.
        unsafe {
            let used = &raw mut (*entry).used[room as usize];
            if *used > 0 {
                add(used, -1);
            }
        }
    }
}

/// Counts a loss on its source; whether it has one.
#[inline(always)]
pub(crate) fn lose(source: u64, loss: Loss) -> bool {
    if source == HOST {
        return false;
    }
    let Some(entry) = entry_of(source) else {
        return false;
    };
    // SAFETY: a pointer that the map returned is valid.
    unsafe { count(entry, loss) };
    true
}

/// Adds to what other CPUs add to as well. The instruction is in every kernel; those behind the atomics of the core library
/// came with Linux 5.12.
///
/// # Safety
/// `to` is valid.
#[inline(always)]
unsafe fn add(to: *mut u64, what: i64) {
    // SAFETY: as the caller promised.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("lock *(u64 *)({to} + 0) += {what}", to = in(reg) to, what = in(reg) what);
    }
    // What clippy compiles.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller promised.
    unsafe {
        *to = (*to).wrapping_add_signed(what);
    }
}

#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value would be copied to the stack, which is small"
)]
fn entry_of(source: u64) -> Option<*mut Source> {
    if let Some(entry) = SOURCES.get_ptr_mut(source) {
        return Some(entry);
    }
    // Another thread may have been faster, or there is no room left.
    let _ = SOURCES.insert(source, &BLANK, NO_EXIST);
    if let Some(entry) = SOURCES.get_ptr_mut(source) {
        return Some(entry);
    }
    SOURCES.get_ptr_mut(REST)
}

/// # Safety
/// `entry` is valid.
#[inline(always)]
unsafe fn count(entry: *mut Source, loss: Loss) {
    let leader: u64 = read(current(), offset!(task_group_leader)).unwrap_or(0);
    // SAFETY: as the caller promised; the helper clears the name where it fails.
    unsafe {
        add(&raw mut (*entry).lost[loss as usize], 1);
        (*entry).pid = ids().0;
        (*entry).uid = bpf_get_current_uid_gid() as u32;
        (*entry).start = read(leader, offset!(task_start_boottime)).unwrap_or(0);
        bpf_get_current_comm((&raw mut (*entry).comm).cast(), COMM_LEN as u32);
    }
}
