//! The commands of bpf(2) that aya does not give.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_link_info, bpf_prog_info};

/// The attach type of a link to a perf event.
pub(super) const PERF_EVENT: u32 = bpf_attach_type::BPF_PERF_EVENT as u32;

fn bpf<A>(command: bpf_cmd, attributes: &mut A) -> io::Result<i64> {
    // SAFETY: the caller gives the attributes of this command, which are as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Links a program to a target; Linux 5.15 on for perf events.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` of this command.
    #[repr(C)]
    struct Attributes {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let fd = bpf(
        bpf_cmd::BPF_LINK_CREATE,
        &mut Attributes {
            program: program.as_raw_fd().cast_unsigned(),
            target: target.as_raw_fd().cast_unsigned(),
            attach_type,
            flags: 0,
        },
    )?;
    // SAFETY: the descriptor was just made, and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What the kernel tells of an object, as far as it fills the structure.
fn info<const LEN: usize>(object: BorrowedFd<'_>) -> Option<[u8; LEN]> {
    /// The part of `union bpf_attr` of this command.
    #[repr(C)]
    struct Attributes {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0u8; LEN];
    let mut attributes = Attributes {
        fd: object.as_raw_fd().cast_unsigned(),
        info_len: LEN as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes).ok()?;
    Some(info)
}

fn u64_at(info: &[u8], offset: usize) -> Option<u64> {
    let bytes = info.get(offset..offset + 8)?;
    bytes.try_into().ok().map(u64::from_ne_bytes)
}

/// Runs of a program that the kernel skipped, because one was active on that CPU already: tracing programs since Linux
/// 5.12, kprobes since 6.7; before, nothing shows them.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let info: [u8; size_of::<bpf_prog_info>()] = info(program)?;
    u64_at(&info, std::mem::offset_of!(bpf_prog_info, recursion_misses))
}

/// What the kprobe of a link missed: `nmissed` (no instance of a kretprobe left, or hit within another one); Linux 6.7
/// on.
pub(super) fn kprobe_misses(link: BorrowedFd<'_>) -> Option<u64> {
    const BPF_LINK_TYPE_PERF_EVENT: u32 = 7;
    const BPF_PERF_EVENT_KPROBE: u32 = 3;
    const BPF_PERF_EVENT_KRETPROBE: u32 = 4;
    // struct bpf_link_info (uapi/linux/bpf.h): type, id, prog_id; of a perf event: its type at 16; of a kprobe:
    // func_name at 24, name_len, offset, addr at 40, missed at 48.
    let info: [u8; size_of::<bpf_link_info>()] = info(link)?;
    let word = |offset: usize| Some(u32::from_ne_bytes(info.get(offset..offset + 4)?.try_into().ok()?));
    let kprobe = [BPF_PERF_EVENT_KPROBE, BPF_PERF_EVENT_KRETPROBE].map(Some);
    (word(0) == Some(BPF_LINK_TYPE_PERF_EVENT) && kprobe.contains(&word(16)))
        .then(|| u64_at(&info, 48))
        .flatten()
}
