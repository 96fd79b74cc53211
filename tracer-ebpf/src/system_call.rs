//! Returns of system calls at the tracepoint tier. The one raw tracepoint of all of them costs the others less than a system
//! call's own events cost those that are looked at, and is let go of at once: of an event the kernel waits for all CPUs.

use aya_ebpf::programs::RawTracePointContext;

use crate::{
    RETURNS,
    kernel::{current, offset, read},
};

/// `TS_COMPAT` (`arch/x86/include/asm/thread_info.h`): a 32-bit call, whose number means another one.
const COMPAT: u32 = 2;

/// A system call that is about to return.
pub(crate) struct Return {
    /// The address of its registers, with the arguments as they were.
    pub(crate) registers: u64,
    /// Its result.
    pub(crate) result: i64,
}

/// Hands it to the program of its number, if there is one.
#[inline(always)]
pub(crate) fn dispatch(ctx: &RawTracePointContext) {
    let number: u64 = read(ctx.arg(0), offset!(regs_orig_ax)).unwrap_or(u64::MAX);
    // Those of x32 have a number that is beyond the table, as do those that a tracer cancelled.
    if number < u64::from(u32::MAX) {
        // SAFETY: the context is that of this program, and the programs of the table are of the same type.
        unsafe { RETURNS.tail_call(ctx, number as u32) };
    }
}

impl Return {
    /// What a raw tracepoint gives its program; `None` for one that is not ours to look at.
    #[inline(always)]
    pub(crate) fn of(ctx: &RawTracePointContext) -> Option<Self> {
        let status: u32 = read(current(), offset!(task_info_status)).unwrap_or(0);
        (status & COMPAT == 0).then(|| Self {
            registers: ctx.arg(0),
            result: ctx.arg(1),
        })
    }

    /// Its number.
    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        read::<u64>(self.registers, offset!(regs_orig_ax)).unwrap_or(0) as u32
    }
}
