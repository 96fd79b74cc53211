//! System calls other than umount2 that returned EBUSY: which, with what, by whom. What keeps them is looked up later, by
//! user space.
//!
//! At the tracepoint and kprobe tiers the arguments are read from the caller's registers, which lie at the top of its
//! kernel stack: so there is no program at the entry of these calls, and a call that succeeds costs no more than a look
//! at its result.

use aya_ebpf::{
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str},
    },
    programs::TracePointContext,
};
use tracer_common::{ABSENT, FS_NAME, Loss, OperationRecord, PATH_MAX, PathRef, RecordKind, Room};

use crate::{
    CONFIG, DEVICE_OPENS,
    kernel::{clear, current, loaded, offset, read, write_path},
    lose,
    open::file_of,
    source::{admit, ring_of, source},
    task::{ancestors, ids, write_header},
};

/// Offsets of the number and the result in `syscalls:sys_exit_*`.
const NUMBER: usize = 8;
const RESULT: usize = 16;

const EBUSY: i64 = -16;
/// What the result register has while a call runs (`arch/x86/entry/entry_64.S`): `-ENOSYS`.
const RUNNING: i64 = -38;
const AT_FDCWD: i32 = -100;

/// `THREAD_SIZE` of x86-64 (`arch/x86/include/asm/page_64_types.h`; 3.15 to 7.2, twice that with KASAN), and
/// `TOP_OF_KERNEL_STACK_PADDING`, which is 16 with FRED (6.9 on). Registers that are found prove themselves.
const THREAD_SIZE: u64 = 16 << 10;
const PADDINGS: [u64; 2] = [0, 16];

/// `fsconfig` commands that make or change a superblock: create, reconfigure, create exclusively (6.6 on).
const FSCONFIG_COMMANDS: [u64; 3] = [6, 7, 8];
/// Size of a `struct path`, of which overlayfs has two at the start of its `ovl_fs_context` (6.5 to 7.2).
const PATH_SIZE: u32 = 16;

/// No such argument.
const NONE: usize = 5;
/// [`OperationRecord::syscall`] of the open of a block device.
const BLOCK_DEVICE: u32 = u32::MAX;

/// `ioctl(descriptor, command, argument)`.
const IOCTL: u32 = 16;
/// `LOOP_CLR_FD` (linux/loop.h).
const LOOP_CLEAR: u32 = 0x4c01;
/// `DM_DEV_REMOVE` (linux/dm-ioctl.h): `_IOWR(0xfd, 4, struct dm_ioctl)`, of 312 bytes on x86-64.
const MAPPED_REMOVE: u32 = 0xc138_fd04;
/// `dev`, `name` and `uuid` in a `struct dm_ioctl` (the same since its version 4), and the room of the texts.
const MAPPED_DEVICE: u64 = 40;
const MAPPED_NAME: u64 = 48;
const MAPPED_NAME_LEN: usize = 128;
const MAPPED_UUID: u64 = 176;
const MAPPED_UUID_LEN: usize = 129;

/// Where in its arguments a call has its texts, the directories that the first two of these begin at, and the name of a
/// file system type.
pub(crate) struct Shape {
    texts: [usize; 3],
    bases: [usize; 2],
    fs_name: usize,
    /// The first argument is a descriptor of a file system context.
    context: bool,
    /// The third argument is a `struct dm_ioctl`.
    mapped: bool,
}

const fn shape(texts: [usize; 3], bases: [usize; 2]) -> Shape {
    Shape {
        texts,
        bases,
        fs_name: NONE,
        context: false,
        mapped: false,
    }
}

/// `rmdir(path)`, `unlink(path)`, `open(path)`.
pub(crate) const PATH: Shape = shape([0, NONE, NONE], [NONE, NONE]);
/// `unlinkat(directory, path)`, `openat`, `openat2`, `mount_setattr`.
pub(crate) const PATH_AT: Shape = shape([1, NONE, NONE], [0, NONE]);
/// `rename(old, new)`.
pub(crate) const TWO_PATHS: Shape = shape([0, 1, NONE], [NONE, NONE]);
/// `renameat(directory, old, directory, new)`, `renameat2`.
pub(crate) const TWO_PATHS_AT: Shape = shape([1, 3, NONE], [0, 2]);
/// `mount(source, target, type, flags, options)`.
pub(crate) const MOUNT: Shape = Shape {
    fs_name: 2,
    ..shape([1, 0, 4], [NONE, NONE])
};
/// `fsconfig(context, command, ...)`.
pub(crate) const FSCONFIG: Shape = Shape {
    context: true,
    ..shape([NONE; 3], [NONE; 2])
};

/// `sys_exit_*`.
#[inline(always)]
pub(crate) fn exit(ctx: &TracePointContext, shape: &Shape) {
    // SAFETY: the record of a return is 24 bytes long.
    let (number, ret) = unsafe { (ctx.read_at::<u32>(NUMBER), ctx.read_at::<i64>(RESULT)) };
    if ret == Ok(EBUSY) {
        find_registers(number.unwrap_or(0), EBUSY, shape);
    }
}

/// The return of the kernel's function for a system call, where its registers are at hand.
#[inline(always)]
pub(crate) fn returned(registers: u64, ret: i64, shape: &Shape) {
    if ret == EBUSY {
        let number: u64 = read(registers, offset!(regs_orig_ax)).unwrap_or(0);
        refused(registers, number as u32, shape);
    }
}

/// The same, where they are not.
#[inline(always)]
pub(crate) fn returned_somewhere(ret: i64, number: u32, shape: &Shape) {
    if ret == EBUSY {
        find_registers(number, RUNNING, shape);
    }
}

/// `blkdev_open(inode, file)` returned.
#[inline(always)]
pub(crate) fn device_opened(inode: u64, file: u64, ret: i32) {
    if i64::from(ret) != EBUSY || is_own() {
        return;
    }
    let device: u32 = read(inode, offset!(inode_rdev)).unwrap_or(0);
    let path = if offset!(file_path) == ABSENT {
        0
    } else {
        file + u64::from(offset!(file_path))
    };
    emit(0, BLOCK_DEVICE, device, path, &PATHLESS);
}

/// `blkdev_open(inode, file)` begins.
#[inline(always)]
pub(crate) fn device_opens(inode: u64, file: u64) {
    // A table that is full drops its oldest.
    let _ = DEVICE_OPENS.insert(ids().1, [inode, file], 0);
}

/// It returned, somewhere.
#[inline(always)]
pub(crate) fn device_opens_returned(ret: i32) {
    let (_, tid) = ids();
    // SAFETY: only this thread uses its key, and the value is copied at once.
    if let Some([inode, file]) = unsafe { DEVICE_OPENS.get(tid) }.copied() {
        let _ = DEVICE_OPENS.remove(tid);
        device_opened(inode, file, ret);
    }
}

const PATHLESS: Shape = shape([NONE; 3], [NONE; 2]);
const MAPPED: Shape = Shape {
    mapped: true,
    ..PATHLESS
};

/// `sys_exit_ioctl`: calls that succeed, too, since that of a loop device does while somebody keeps the device.
#[inline(always)]
pub(crate) fn ioctl_exit(ctx: &TracePointContext) {
    // SAFETY: the record of a return is 24 bytes long.
    if let Ok(ret @ (0 | EBUSY)) = unsafe { ctx.read_at::<i64>(RESULT) } {
        find_ioctl(ret, ret);
    }
}

/// The return of the kernel's function for ioctl.
#[inline(always)]
pub(crate) fn ioctl_returned(registers: u64, ret: i64) {
    if ret == 0 || ret == EBUSY {
        let command: u64 = read(registers, offset!(regs_si)).unwrap_or(0);
        controlled(registers, command as u32, ret);
    }
}

/// `blkdev_ioctl` returned, somewhere in an ioctl.
#[inline(always)]
pub(crate) fn device_ioctl_returned(ret: i64) {
    // An int up to Linux 5.15, of which the upper half of the register is not defined.
    let ret = i64::from(ret as i32);
    if ret == 0 || ret == EBUSY {
        find_ioctl(RUNNING, ret);
    }
}

/// Almost every ioctl is none of ours: its command is looked at first.
#[inline(always)]
fn find_ioctl(result: i64, ret: i64) {
    let stack: u64 = read(current(), offset!(task_stack)).unwrap_or(0);
    if stack == 0 || offset!(regs_ss) == ABSENT {
        return;
    }
    let size = u64::from(offset!(regs_ss)) + 8;
    for padding in PADDINGS {
        let registers = stack + THREAD_SIZE - padding - size;
        let command = read::<u64>(registers, offset!(regs_si)).unwrap_or(0) as u32;
        if (command == LOOP_CLEAR || command == MAPPED_REMOVE)
            && read(registers, offset!(regs_orig_ax)) == Some(u64::from(IOCTL))
            && read(registers, offset!(regs_ax)) == Some(result)
        {
            return controlled(registers, command, ret);
        }
    }
}

#[inline(always)]
fn controlled(registers: u64, command: u32, ret: i64) {
    if command == LOOP_CLEAR && !is_own() {
        let fd: u64 = read(registers, offset!(regs_di)).unwrap_or(0);
        let file = file_of(fd & 0xffff_ffff).unwrap_or(0);
        let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
        let device: u32 = read(inode, offset!(inode_rdev)).unwrap_or(0);
        emit(registers, IOCTL, device, 0, &PATHLESS);
    } else if command == MAPPED_REMOVE && ret == EBUSY && !is_own() {
        emit(registers, IOCTL, 0, 0, &MAPPED);
    }
}

#[inline(always)]
fn is_own() -> bool {
    ids().0 == loaded(&CONFIG.own_tgid)
}

/// The registers prove themselves: number and result of the call must be there.
#[inline(always)]
fn find_registers(number: u32, result: i64, shape: &Shape) {
    let stack: u64 = read(current(), offset!(task_stack)).unwrap_or(0);
    if stack == 0 || offset!(regs_ss) == ABSENT {
        return lose(Loss::OperationArguments);
    }
    let size = u64::from(offset!(regs_ss)) + 8;
    let mut found = 0;
    for padding in PADDINGS {
        let registers = stack + THREAD_SIZE - padding - size;
        if read(registers, offset!(regs_orig_ax)) == Some(u64::from(number))
            && read(registers, offset!(regs_ax)) == Some(result)
        {
            found = registers;
        }
    }
    if found == 0 {
        return lose(Loss::OperationArguments);
    }
    refused(found, number, shape);
}

#[inline(always)]
fn refused(registers: u64, number: u32, shape: &Shape) {
    if is_own() {
        return;
    }
    if shape.context {
        let command: u64 = read(registers, offset!(regs_si)).unwrap_or(0);
        if !FSCONFIG_COMMANDS.contains(&(command & 0xffff_ffff)) {
            return;
        }
    }
    emit(registers, number, 0, 0, shape);
}

/// Sends the record; `path` is the address of a `struct path` where the call is known by that alone.
#[inline(always)]
fn emit(registers: u64, number: u32, device: u32, path: u64, shape: &Shape) {
    let source = source();
    if !admit(source, Room::Operation) {
        return;
    }
    let Some(mut entry) = ring_of(source).reserve::<OperationRecord>(0) else {
        return lose(Loss::OperationRingFull);
    };
    let record = entry.as_mut_ptr();
    let task = current();
    let fs: u64 = read(task, offset!(task_fs)).unwrap_or(0);
    // SAFETY: the reservation is of this type; every field is written, so that nothing of the ring leaks but the rest of
    // texts, which user space does not read.
    unsafe {
        write_header(
            &raw mut (*record).header,
            RecordKind::Operation,
            size_of::<OperationRecord>(),
            source,
        );
        (*record).syscall = number;
        (*record).device = device;
        (*record).arguments[0] = read(registers, offset!(regs_di)).unwrap_or(0);
        (*record).arguments[1] = read(registers, offset!(regs_si)).unwrap_or(0);
        (*record).arguments[2] = read(registers, offset!(regs_dx)).unwrap_or(0);
        (*record).arguments[3] = read(registers, offset!(regs_r10)).unwrap_or(0);
        (*record).arguments[4] = read(registers, offset!(regs_r8)).unwrap_or(0);
        write_path(&raw mut (*record).cwd, fs, offset!(fs_pwd));
        write_path(&raw mut (*record).root, fs, offset!(fs_root));
        write_path(&raw mut (*record).bases[0], path, 0);
        write_path(&raw mut (*record).bases[1], 0, 0);
        (*record).reconfigured = 0;
        clear(&raw mut (*record).fs_name);
        (*record).text_lens = [0; 3];
        clear(&raw mut (*record).ancestors);
        (*record).ancestor_count = ancestors((&raw mut (*record).ancestors).cast());
        for text in 0..3 {
            if shape.texts[text] != NONE {
                let from = (*record).arguments[shape.texts[text]];
                (*record).text_lens[text] =
                    user_text((&raw mut (*record).texts[text]).cast(), PATH_MAX, from);
            }
        }
        for base in 0..2 {
            if shape.bases[base] != NONE {
                let fd = (*record).arguments[shape.bases[base]] as i32;
                write_base(&raw mut (*record).bases[base], fs, fd);
            }
        }
        if shape.fs_name != NONE {
            user_text(
                (&raw mut (*record).fs_name).cast(),
                FS_NAME,
                (*record).arguments[shape.fs_name],
            );
        }
        if shape.mapped {
            write_mapped(record);
        }
        if shape.context {
            write_context(record);
        }
    }
    entry.submit(0);
}

/// A text of the caller; returns its length without the NUL.
///
/// # Safety
/// `out` has room for `most` bytes.
#[inline(always)]
unsafe fn user_text(out: *mut u8, most: usize, from: u64) -> u32 {
    // SAFETY: as the caller promised; the helper checks the source.
    let copied = unsafe { bpf_probe_read_user_str(out.cast(), most as u32, from as *const _) };
    if copied > 0 { copied as u32 - 1 } else { 0 }
}

/// A text of the kernel; returns its length without the NUL.
///
/// # Safety
/// `out` has room for `most` bytes.
#[inline(always)]
unsafe fn kernel_text(out: *mut u8, most: usize, from: u64) -> u32 {
    // SAFETY: as the caller promised; the helper checks the source.
    let copied = unsafe { bpf_probe_read_kernel_str(out.cast(), most as u32, from as *const _) };
    if copied > 0 { copied as u32 - 1 } else { 0 }
}

/// What a relative path begins at: the directory of a descriptor, or the working directory.
///
/// # Safety
/// `out` is valid for writes.
#[inline(always)]
unsafe fn write_base(out: *mut PathRef, fs: u64, fd: i32) {
    // SAFETY: as the caller promised.
    unsafe {
        if fd == AT_FDCWD {
            write_path(out, fs, offset!(fs_pwd));
        } else if let Some(file) = file_of(u64::from(fd as u32)) {
            write_path(out, file, offset!(file_path));
        }
    }
}

/// What a `struct dm_ioctl` says: name, uuid, and number of the device, of which one is enough.
///
/// # Safety
/// `record` is valid.
#[inline(always)]
unsafe fn write_mapped(record: *mut OperationRecord) {
    // SAFETY: as the caller promised; every read of the caller's memory may fail.
    unsafe {
        let from = (*record).arguments[2];
        (*record).text_lens[0] = user_text(
            (&raw mut (*record).texts[0]).cast(),
            MAPPED_NAME_LEN,
            from + MAPPED_NAME,
        );
        (*record).text_lens[1] = user_text(
            (&raw mut (*record).texts[1]).cast(),
            MAPPED_UUID_LEN,
            from + MAPPED_UUID,
        );
        (*record).arguments[3] = bpf_probe_read_user((from + MAPPED_DEVICE) as *const u64).unwrap_or(0);
    }
}

/// What a file system context says: type, source, options, what it reconfigures.
///
/// # Safety
/// `record` is valid.
#[inline(always)]
unsafe fn write_context(record: *mut OperationRecord) {
    // SAFETY: as the caller promised; every read of kernel memory may fail.
    unsafe {
        let Some(file) = file_of((*record).arguments[0] & 0xffff_ffff) else {
            return;
        };
        let context: u64 = read(file, offset!(file_private)).unwrap_or(0);
        let fs_type: u64 = read(context, offset!(context_type)).unwrap_or(0);
        let name: u64 = read(fs_type, offset!(fs_type_name)).unwrap_or(0);
        kernel_text((&raw mut (*record).fs_name).cast(), FS_NAME, name);
        let source: u64 = read(context, offset!(context_source)).unwrap_or(0);
        (*record).text_lens[1] = kernel_text((&raw mut (*record).texts[1]).cast(), PATH_MAX, source);
        (*record).reconfigured = read(context, offset!(context_root)).unwrap_or(0);
        // Either what overlayfs made of its options, or the text of the options (`legacy_fs_context`): user space tells.
        let private: u64 = read(context, offset!(context_private)).unwrap_or(0);
        write_path(&raw mut (*record).bases[0], private, 0);
        write_path(&raw mut (*record).bases[1], private, PATH_SIZE);
        let options: u64 = read(private, 0).unwrap_or(0);
        (*record).text_lens[2] = kernel_text((&raw mut (*record).texts[2]).cast(), PATH_MAX, options);
    }
}
