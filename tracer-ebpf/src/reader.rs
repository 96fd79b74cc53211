//! Kernel memory on demand: programs that are never attached, only run by user space.

use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_probe_read_kernel},
    programs::RawTracePointContext,
};
use tracer_common::{ARENA_BYTES, ARENA_SLOTS, Arena, CHASE_MAX, MAX_READ, READ_FAULT, READ_OK};

use crate::{
    ARENA, PER_CPU_MARK,
    kernel::{current, read},
    task::ids,
};

/// Reads `count` pieces of `len` bytes at `address[i] + offset` to `data[i << shift]`.
/// Arguments: count, len, shift, offset. Returns the number of slots done.
#[inline(always)]
pub(crate) fn read_batch(ctx: &RawTracePointContext) -> u32 {
    let (count, len, shift, offset): (u64, u64, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let Some(arena) = ARENA.get_ptr_mut(0) else {
        return 0;
    };
    if shift > 12 {
        return 0;
    }
    let mut done = 0;
    for slot in 0..ARENA_SLOTS {
        if slot as u64 >= count {
            break;
        }
        // Loaded and checked right here: before Linux 6.3 the verifier forgets what it knows of a register that
        // is spilled to the stack between its check and its use.
        // SAFETY: a variable of our own.
        let len = unsafe { core::ptr::read_volatile(&raw const len) };
        if len == 0 || len > MAX_READ as u64 {
            break;
        }
        let start = (slot as u64) << shift;
        if start >= ARENA_BYTES as u64 {
            break;
        }
        // SAFETY: `slot` is below ARENA_SLOTS; `start` is below ARENA_BYTES and `len` at most MAX_READ, which the
        // data has room for; the helper checks the source.
        unsafe {
            let source = (&raw const (*arena).address)
                .cast::<u64>()
                .add(slot)
                .read_volatile()
                + offset;
            let target = (&raw mut (*arena).data).cast::<u8>().add(start as usize);
            let failed = bpf_probe_read_kernel(target.cast(), len as u32, source as *const _) != 0;
            (&raw mut (*arena).status)
                .cast::<u8>()
                .add(slot)
                .write(if failed { READ_FAULT } else { READ_OK });
        }
        done += 1;
    }
    done
}

/// Follows a chain of links in one go, so that RCU protects a list that it protects: `next = *(node + offset)`.
/// Arguments: first node, offset, node to stop at, most. Writes the nodes to `address`; returns how many.
/// `status[0]` is `READ_OK` where the chain ended (at the stop or at null), `READ_FAULT` where a link was not
/// readable, 0 where there is more.
#[inline(always)]
pub(crate) fn chase(ctx: &RawTracePointContext) -> u32 {
    let (first, offset, stop, most): (u64, u64, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let Some(arena) = ARENA.get_ptr_mut(0) else {
        return 0;
    };
    let mut node = first;
    let mut count = 0;
    let mut status = 0;
    for slot in 0..CHASE_MAX {
        if node == stop || node == 0 {
            status = READ_OK;
            break;
        }
        if slot as u64 >= most {
            break;
        }
        // SAFETY: `slot` is below ARENA_SLOTS.
        unsafe {
            (&raw mut (*arena).address)
                .cast::<u64>()
                .add(slot)
                .write_volatile(node);
        };
        count += 1;
        let Some(next) = read::<u64>(node + offset, 0) else {
            status = READ_FAULT;
            break;
        };
        node = next;
    }
    set_first_status(arena, status);
    count
}

#[inline(always)]
fn set_first_status(arena: *mut Arena, status: u8) {
    // SAFETY: the map's pointer is valid.
    unsafe { (&raw mut (*arena).status).cast::<u8>().write_volatile(status) };
}

/// Addresses that only the kernel knows: `address[0]` of the per-CPU map, `[1]` of its value on this CPU, `[2]` the
/// CPU, `[3]` the running task, `[4]` its process id as the host sees it. Returns 5.
#[inline(always)]
pub(crate) fn marks(_ctx: &RawTracePointContext) -> u32 {
    let Some(arena) = ARENA.get_ptr_mut(0) else {
        return 0;
    };
    let Some(mark) = PER_CPU_MARK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: five slots are within the arena; the helper has no preconditions.
    unsafe {
        let out = (&raw mut (*arena).address).cast::<u64>();
        out.write_volatile((&raw const PER_CPU_MARK) as u64);
        out.add(1).write_volatile(mark as u64);
        out.add(2).write_volatile(u64::from(bpf_get_smp_processor_id()));
        out.add(3).write_volatile(current());
        out.add(4).write_volatile(u64::from(ids().0));
    }
    5
}
