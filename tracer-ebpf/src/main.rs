//! The kernel programs of ebusy: the list of hooks and maps. What each hook does is in the module of its family.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::inline_always,
    reason = "calls between BPF functions cost a verifier state each, and pass five arguments at the most"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros of the hooks hand their context over by value"
)]

mod kernel;
mod ledger;
mod mount;
mod namespace;
mod open;
mod operation;
mod reader;
mod source;
mod task;
mod umount;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe, map, tracepoint},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    programs::{
        FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext,
    },
};
use tracer_common::{
    Arena, ClosedKey, Config, LOSS_COUNTERS, Layout, LedgerEntry, Loss, SOURCES_MAX, Source, UmountCall,
    Watched, namespace_operation,
};

/// `BPF_F_MMAPABLE`: user space reads and writes the arena without system calls (Linux 5.5 on).
const MMAPABLE: u32 = 1 << 10;

/// Filled in by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
static LAYOUT: Layout = Layout::absent();

/// Filled in by the loader.
#[unsafe(no_mangle)]
static CONFIG: Config = Config { own_tgid: 0 };

/// Refused umounts of the host's superuser; nothing else may fill it.
#[map]
static REFUSALS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Everything else that the host's superuser does.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// What all others do, refused umounts as well: each source has a room of it (`tracer_common::Room`).
#[map]
static OTHERS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// Who those others are, and what they have had of their room. User space takes away those that are quiet.
#[map]
static SOURCES: HashMap<u64, Source> = HashMap::with_max_entries(SOURCES_MAX, 0);

/// Whether user space knows already that mounts have changed, those of the host's superuser and those of others.
#[map]
static MOUNTS_CHANGED: Array<u32> = Array::with_max_entries(2, 0);

/// What was lost of the host's superuser, by [`Loss`].
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_COUNTERS, 0);

/// Mounts of watched file systems by the address of their `struct mount`: those in a slot have a number, the others,
/// whose users block nothing, have 0.
#[map]
static WATCHED: HashMap<u64, Watched> = HashMap::with_max_entries(16_384, 0);

/// Superblocks of watched mounts: for mounts that are newer than user space's last look.
#[map]
static WATCHED_SUPERBLOCKS: HashMap<u64, u8> = HashMap::with_max_entries(8192, 0);

/// Mounts that were made since user space last looked, with their `mnt_id`: whether they are to be watched is known
/// only when they have a path. Copies for a new namespace and those that overlayfs keeps for itself are left out.
#[map]
static NEW_MOUNTS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// The ledger: files that the host's superuser opened on watched mounts, by the address of their `struct file`. Where opens cannot be told
/// by their `struct file` (tracepoint tier) it stays empty.
#[map]
static LEDGER: HashMap<u64, LedgerEntry> = HashMap::with_max_entries(32_768, 0);

/// Those that others opened, and that user space found.
#[map]
static OTHERS_LEDGER: HashMap<u64, LedgerEntry> = HashMap::with_max_entries(32_768, 0);

/// Files of the ledger that were closed lately.
#[map]
static CLOSED: LruHashMap<ClosedKey, LedgerEntry> = LruHashMap::with_max_entries(2048, 0);

/// Those of others.
#[map]
static OTHERS_CLOSED: LruHashMap<ClosedKey, LedgerEntry> = LruHashMap::with_max_entries(2048, 0);

/// Umounts of the host's superuser between their entry and their return, by thread.
#[map]
static UNDER_WAY: HashMap<u32, UmountCall> = HashMap::with_max_entries(1024, 0);

/// Those of others.
#[map]
static OTHERS_UNDER_WAY: HashMap<u32, UmountCall> = HashMap::with_max_entries(1024, 0);

/// Opens of block devices under way at the kprobe tier, inode and file by thread: a kretprobe has no arguments. Of a
/// return that is missed the entry stays until it is the oldest.
#[map]
static DEVICE_OPENS: LruHashMap<u32, [u64; 2]> = LruHashMap::with_max_entries(256, 0);

/// The window of the reader.
#[map]
static ARENA: Array<Arena> = Array::with_max_entries(1, MMAPABLE);

/// Its only use is that its value has a per-CPU address (kernel fact 10).
#[map]
static PER_CPU_MARK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Counts one loss, on the account of the running thread.
#[inline(always)]
fn lose(loss: Loss) {
    if source::lose(source::source(), loss) {
        return;
    }
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: a pointer that the map returned is valid, and this CPU alone writes its value.
        unsafe { *counter += 1 };
    }
}

macro_rules! tracepoints {
    ($($name:ident => $body:expr;)+) => {
        $(
            #[tracepoint]
            fn $name(ctx: TracePointContext) -> u32 {
                let body: fn(&TracePointContext) = $body;
                body(&ctx);
                0
            }
        )+
    };
}

tracepoints! {
    sys_enter_umount => umount::enter;
    sys_exit_umount => umount::exit;
    sys_exit_open => |ctx| { open::exit(ctx); operation::exit(ctx, &operation::PATH); };
    sys_exit_openat => |ctx| { open::exit(ctx); operation::exit(ctx, &operation::PATH_AT); };
    sys_exit_openat2 => |ctx| { open::exit(ctx); operation::exit(ctx, &operation::PATH_AT); };
    sys_exit_creat => open::exit;
    sys_exit_open_by_handle_at => open::exit;
    sys_exit_open_tree => open::exit;
    sys_exit_setns => |ctx| namespace::exit(ctx, namespace_operation::SETNS);
    sys_exit_unshare => |ctx| namespace::exit(ctx, namespace_operation::UNSHARE);
    sys_exit_clone => |ctx| namespace::exit_clone(ctx);
    sys_exit_clone3 => |ctx| namespace::exit_clone(ctx);
    sys_exit_mount => |ctx| { mount::exit(ctx); operation::exit(ctx, &operation::MOUNT); };
    sys_exit_move_mount => mount::exit;
    sys_exit_mount_setattr => |ctx| { mount::exit(ctx); operation::exit(ctx, &operation::PATH_AT); };
    sys_exit_pivot_root => mount::exit;
    sys_exit_fsconfig => |ctx| operation::exit(ctx, &operation::FSCONFIG);
    sys_exit_ioctl => operation::ioctl_exit;
    sys_exit_rmdir => |ctx| operation::exit(ctx, &operation::PATH);
    sys_exit_unlink => |ctx| operation::exit(ctx, &operation::PATH);
    sys_exit_unlinkat => |ctx| operation::exit(ctx, &operation::PATH_AT);
    sys_exit_rename => |ctx| operation::exit(ctx, &operation::TWO_PATHS);
    sys_exit_renameat => |ctx| operation::exit(ctx, &operation::TWO_PATHS_AT);
    sys_exit_renameat2 => |ctx| operation::exit(ctx, &operation::TWO_PATHS_AT);
}

/// The kernel's functions for the system calls that `operation` is about: with tracing programs at their return, the
/// other system calls cost nothing. By the number that each has on x86-64.
macro_rules! system_calls {
    ($($function:literal $number:literal: $traced:ident $kprobe:ident => $shape:ident;)+) => {
        $(
            #[fexit(function = $function)]
            fn $traced(ctx: FExitContext) -> u32 {
                let (registers, ret): (*const u8, i64) = (ctx.arg(0), ctx.arg(1));
                operation::returned(registers as u64, ret, &operation::$shape);
                0
            }

            #[kretprobe]
            fn $kprobe(ctx: RetProbeContext) -> u32 {
                operation::returned_somewhere(ctx.ret(), $number, &operation::$shape);
                0
            }
        )+
    };
}

system_calls! {
    "__x64_sys_mount" 165: mount_exit kprobe_mount_exit => MOUNT;
    "__x64_sys_mount_setattr" 442: mount_setattr_exit kprobe_mount_setattr_exit => PATH_AT;
    "__x64_sys_fsconfig" 431: fsconfig_exit kprobe_fsconfig_exit => FSCONFIG;
    "__x64_sys_rmdir" 84: rmdir_exit kprobe_rmdir_exit => PATH;
    "__x64_sys_unlink" 87: unlink_exit kprobe_unlink_exit => PATH;
    "__x64_sys_unlinkat" 263: unlinkat_exit kprobe_unlinkat_exit => PATH_AT;
    "__x64_sys_rename" 82: rename_exit kprobe_rename_exit => TWO_PATHS;
    "__x64_sys_renameat" 264: renameat_exit kprobe_renameat_exit => TWO_PATHS_AT;
    "__x64_sys_renameat2" 316: renameat2_exit kprobe_renameat2_exit => TWO_PATHS_AT;
}

#[fexit(function = "__x64_sys_ioctl")]
fn ioctl_exit(ctx: FExitContext) -> u32 {
    let (registers, ret): (*const u8, i64) = (ctx.arg(0), ctx.arg(1));
    operation::ioctl_returned(registers as u64, ret);
    0
}

/// Not that of the system call: a kretprobe has a few instances for the whole system, and an ioctl may wait for long.
#[kretprobe]
fn kprobe_device_ioctl_exit(ctx: RetProbeContext) -> u32 {
    operation::device_ioctl_returned(ctx.ret());
    0
}

#[fexit(function = "blkdev_open")]
fn blkdev_open_exit(ctx: FExitContext) -> u32 {
    let (inode, file, ret): (*const u8, *const u8, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    operation::device_opened(inode as u64, file as u64, ret);
    0
}

#[kprobe]
fn kprobe_blkdev_open_entry(ctx: ProbeContext) -> u32 {
    if let (Some(inode), Some(file)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        operation::device_opens(inode, file);
    }
    0
}

#[kretprobe]
fn kprobe_blkdev_open_exit(ctx: RetProbeContext) -> u32 {
    operation::device_opens_returned(ctx.ret());
    0
}

#[fentry(function = "path_umount")]
fn path_umount_entry(ctx: FEntryContext) -> u32 {
    let (path, flags): (*const u8, i32) = (ctx.arg(0), ctx.arg(1));
    umount::path_umount_entry(path as u64, flags as u32);
    0
}

#[kprobe]
fn kprobe_path_umount_entry(ctx: ProbeContext) -> u32 {
    if let (Some(path), Some(flags)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        umount::path_umount_entry(path, flags as u32);
    }
    0
}

#[fexit(function = "path_umount")]
fn path_umount_exit(ctx: FExitContext) -> u32 {
    umount::finish_once(i64::from(ctx.arg::<i32>(2)));
    0
}

/// The same once more. A kernel that preempts skips a program while another task, preempted in the middle of it, waits
/// on the same CPU; of two, the other one runs. The one that comes second finds nothing to do.
#[fexit(function = "path_umount")]
fn path_umount_exit_again(ctx: FExitContext) -> u32 {
    umount::finish_once(i64::from(ctx.arg::<i32>(2)));
    0
}

#[kretprobe]
fn kprobe_path_umount_exit(ctx: RetProbeContext) -> u32 {
    umount::finish(i64::from(ctx.ret::<i32>()));
    0
}

#[fentry(function = "propagate_mount_busy")]
fn busy_check_entry(_ctx: FEntryContext) -> u32 {
    umount::busy_check_entry();
    0
}

#[kprobe]
fn kprobe_busy_check_entry(_ctx: ProbeContext) -> u32 {
    umount::busy_check_entry();
    0
}

#[fexit(function = "propagate_mount_busy")]
fn busy_check_exit(_ctx: FExitContext) -> u32 {
    umount::busy_check_exit();
    0
}

#[kretprobe]
fn kprobe_busy_check_exit(_ctx: RetProbeContext) -> u32 {
    umount::busy_check_exit();
    0
}

#[fexit(function = "mnt_get_count")]
fn count_exit(ctx: FExitContext) -> u32 {
    let mount: *const u8 = ctx.arg(0);
    umount::count_exit(mount as u64, ctx.arg(1));
    0
}

#[kprobe]
fn kprobe_count_entry(ctx: ProbeContext) -> u32 {
    if let Some(mount) = ctx.arg(0) {
        umount::count_entry(mount);
    }
    0
}

#[kretprobe]
fn kprobe_count_exit(ctx: RetProbeContext) -> u32 {
    umount::count_return(ctx.ret());
    0
}

/// Three parameters up to Linux 6.11 (kernel fact 17). The result comes after them, and a register that points to the
/// parameters must not be computed: so there is a program for each number.
#[fexit(function = "do_dentry_open")]
fn do_dentry_open_exit_3(ctx: FExitContext) -> u32 {
    let (file, ret): (*const u8, i32) = (ctx.arg(0), ctx.arg(3));
    if ret == 0 {
        open::opened(file as u64);
    }
    0
}

/// Two parameters later.
#[fexit(function = "do_dentry_open")]
fn do_dentry_open_exit_2(ctx: FExitContext) -> u32 {
    let (file, ret): (*const u8, i32) = (ctx.arg(0), ctx.arg(2));
    if ret == 0 {
        open::opened(file as u64);
    }
    0
}

#[kprobe]
fn kprobe_do_dentry_open_entry(ctx: ProbeContext) -> u32 {
    if let Some(file) = ctx.arg(0) {
        open::open_begins(file);
    }
    0
}

#[kprobe]
fn kprobe_readahead_set_up(ctx: ProbeContext) -> u32 {
    if let (Some(readahead), Some(mapping)) = (ctx.arg(0), ctx.arg(1)) {
        open::readahead_set_up(readahead, mapping);
    }
    0
}

#[fentry(function = "__fput")]
fn fput_entry(ctx: FEntryContext) -> u32 {
    let file: *const u8 = ctx.arg(0);
    open::closed(file as u64);
    0
}

#[kprobe]
fn kprobe_fput_entry(ctx: ProbeContext) -> u32 {
    if let Some(file) = ctx.arg(0) {
        open::closed(file);
    }
    0
}

/// Four parameters on every kernel from 5.10 to 7.2; the result comes after them.
#[fexit(function = "copy_mnt_ns")]
fn copy_mnt_ns_exit(ctx: FExitContext) -> u32 {
    let namespace: *const u8 = ctx.arg(4);
    namespace::copied(namespace as u64);
    0
}

#[kretprobe]
fn kprobe_copy_mnt_ns_exit(ctx: RetProbeContext) -> u32 {
    namespace::copied(ctx.ret());
    0
}

#[fentry(function = "switch_task_namespaces")]
fn switch_namespaces_entry(ctx: FEntryContext) -> u32 {
    let (task, nsproxy): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    namespace::switched(task as u64, nsproxy as u64);
    0
}

#[kprobe]
fn kprobe_switch_namespaces_entry(ctx: ProbeContext) -> u32 {
    if let (Some(task), Some(nsproxy)) = (ctx.arg(0), ctx.arg(1)) {
        namespace::switched(task, nsproxy);
    }
    0
}

#[fentry(function = "attach_recursive_mnt")]
fn attach_mount_entry(ctx: FEntryContext) -> u32 {
    let mount: *const u8 = ctx.arg(0);
    mount::attaching(mount as u64);
    0
}

#[kprobe]
fn kprobe_attach_mount_entry(ctx: ProbeContext) -> u32 {
    if let Some(mount) = ctx.arg(0) {
        mount::attaching(mount);
    }
    0
}

#[fentry(function = "cleanup_mnt")]
fn free_mount_entry(ctx: FEntryContext) -> u32 {
    let mount: *const u8 = ctx.arg(0);
    mount::freed(mount as u64);
    0
}

#[kprobe]
fn kprobe_free_mount_entry(ctx: ProbeContext) -> u32 {
    if let Some(mount) = ctx.arg(0) {
        mount::freed(mount);
    }
    0
}

#[fexit(function = "attach_recursive_mnt")]
fn attach_mount_exit(_ctx: FExitContext) -> u32 {
    mount::attached();
    0
}

#[kretprobe]
fn kprobe_attach_mount_exit(_ctx: RetProbeContext) -> u32 {
    mount::attached();
    0
}

// A kretprobe does not know the arguments: new mounts are watched from their making at the fentry tier alone.
#[fexit(function = "clone_mnt")]
fn clone_mount_exit(ctx: FExitContext) -> u32 {
    mount::cloned(&ctx);
    0
}

/// The programs of the reader are written by hand: the macro of a raw tracepoint throws the result away, and
/// `BPF_PROG_TEST_RUN` hands it to user space.
macro_rules! reader_programs {
    ($($name:ident;)+) => {
        $(
            #[unsafe(no_mangle)]
            #[unsafe(link_section = "raw_tracepoint")]
            extern "C" fn $name(ctx: *mut c_void) -> u32 {
                reader::$name(&RawTracePointContext::new(ctx))
            }
        )+
    };
}

reader_programs! {
    read_batch;
    chase;
    marks;
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code of ours panics; the verifier would refuse a program that reaches this.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
