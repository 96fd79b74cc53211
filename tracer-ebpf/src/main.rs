//! The kernel programs of ebusy: the list of hooks and maps. What each hook does is in the module of its family.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "calls between BPF functions cost a verifier state each, and pass five arguments at the most"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros of the hooks hand their context over by value"
)]

mod kernel;
mod mount;
mod namespace;
mod open;
mod reader;
mod task;
mod umount;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{fentry, fexit, map, tracepoint},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::{FEntryContext, FExitContext, RawTracePointContext, TracePointContext},
};
use tracer_common::{Arena, Config, LOSS_COUNTERS, Layout, Loss, Watched, namespace_operation};

/// `BPF_F_MMAPABLE`: user space reads and writes the arena without system calls (Linux 5.5 on).
const MMAPABLE: u32 = 1 << 10;

/// Filled in by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
static LAYOUT: Layout = Layout::absent();

/// Filled in by the loader.
#[unsafe(no_mangle)]
static CONFIG: Config = Config { own_tgid: 0 };

/// Refused umounts; nothing else may fill it.
#[map]
static REFUSALS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Everything else.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// What was lost, by [`Loss`].
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_COUNTERS, 0);

/// Mounts of watched file systems by the address of their `struct mount`: those in a slot have a number, the others,
/// whose users block nothing, have 0.
#[map]
static WATCHED: HashMap<u64, Watched> = HashMap::with_max_entries(16_384, 0);

/// Superblocks of watched mounts: for mounts that are newer than user space's last look.
#[map]
static WATCHED_SUPERBLOCKS: HashMap<u64, u8> = HashMap::with_max_entries(8192, 0);

/// Umounts between their entry and their return, by thread.
#[map]
static UNDER_WAY: HashMap<u32, umount::Call> = HashMap::with_max_entries(1024, 0);

/// The window of the reader.
#[map]
static ARENA: Array<Arena> = Array::with_max_entries(1, MMAPABLE);

/// Its only use is that its value has a per-CPU address (KERNEL.md 8: per-CPU offsets without kallsyms).
#[map]
static PER_CPU_MARK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Counts one loss.
fn lose(loss: Loss) {
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
    sys_exit_open => open::exit;
    sys_exit_openat => open::exit;
    sys_exit_openat2 => open::exit;
    sys_exit_creat => open::exit;
    sys_exit_open_by_handle_at => open::exit;
    sys_exit_setns => |ctx| namespace::exit(ctx, namespace_operation::SETNS);
    sys_exit_unshare => |ctx| namespace::exit(ctx, namespace_operation::UNSHARE);
    sys_exit_clone => |ctx| namespace::exit_clone(ctx);
    sys_exit_clone3 => |ctx| namespace::exit_clone(ctx);
    sys_exit_mount => mount::exit;
    sys_exit_move_mount => mount::exit;
    sys_exit_mount_setattr => mount::exit;
    sys_exit_pivot_root => mount::exit;
}

#[fentry(function = "path_umount")]
fn path_umount_entry(ctx: FEntryContext) -> u32 {
    umount::path_umount_entry(&ctx);
    0
}

#[fexit(function = "path_umount")]
fn path_umount_exit(ctx: FExitContext) -> u32 {
    umount::path_umount_exit(&ctx);
    0
}

#[fentry(function = "propagate_mount_busy")]
fn busy_check_entry(ctx: FEntryContext) -> u32 {
    umount::busy_check_entry(&ctx);
    0
}

#[fexit(function = "propagate_mount_busy")]
fn busy_check_exit(_ctx: FExitContext) -> u32 {
    umount::busy_check_exit();
    0
}

#[fexit(function = "mnt_get_count")]
fn count_exit(ctx: FExitContext) -> u32 {
    umount::count_exit(&ctx);
    0
}

/// Three parameters up to Linux 6.11 (KERNEL.md 1.1).
#[fexit(function = "do_dentry_open")]
fn do_dentry_open_exit_3(ctx: FExitContext) -> u32 {
    open::do_dentry_open_exit(&ctx, ctx.arg(3));
    0
}

/// Two parameters later.
#[fexit(function = "do_dentry_open")]
fn do_dentry_open_exit_2(ctx: FExitContext) -> u32 {
    open::do_dentry_open_exit(&ctx, ctx.arg(2));
    0
}

#[fentry(function = "__fput")]
fn fput_entry(ctx: FEntryContext) -> u32 {
    open::fput_entry(&ctx);
    0
}

#[fexit(function = "copy_mnt_ns")]
fn copy_mnt_ns_exit(ctx: FExitContext) -> u32 {
    namespace::copy_mnt_ns_exit(&ctx);
    0
}

#[fentry(function = "switch_task_namespaces")]
fn switch_namespaces_entry(ctx: FEntryContext) -> u32 {
    namespace::switch_entry(&ctx);
    0
}

#[fexit(function = "attach_recursive_mnt")]
fn attach_mount_exit(_ctx: FExitContext) -> u32 {
    mount::attached();
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
