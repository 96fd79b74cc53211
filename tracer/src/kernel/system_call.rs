//! Which system call a thread is in, and who is in an umount2 that has not returned.

use tracer_common::{ABSENT, UmountCall};

use super::{Kernel, PathAddress};
use crate::{
    model::{Process, Text},
    stream::RawUmount,
};

/// `THREAD_SIZE` of x86-64 (`arch/x86/include/asm/page_64_types.h`; 3.15 to 7.2, twice that with KASAN), and
/// `TOP_OF_KERNEL_STACK_PADDING`, which is 16 with FRED (6.9 on). Registers that are found prove themselves.
const THREAD_SIZE: u64 = 16 << 10;
const PADDINGS: [u64; 2] = [0, 16];
/// `__USER_CS` and `__USER_DS` (`arch/x86/include/asm/segment.h`; the same from 5.10 to 7.2).
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;

impl Kernel<'_> {
    /// The number of the system call that a thread entered the kernel by last: its registers are at the top of its
    /// kernel stack until it is back in user mode, also while it does what is left to do on the way. An interrupt in user
    /// mode overwrites them: what a thread is not in any more it does not show for long. `None` for a task that is
    /// another thread now, and where the registers are not to be found (32-bit callers).
    #[must_use]
    pub fn system_call(self, task: u64, tgid: u32, tid: u32) -> Option<u64> {
        let t = &self.layout.table;
        if [t.regs_ss, t.regs_cs, t.regs_orig_ax, t.task_stack].contains(&ABSENT) {
            return None;
        }
        let is_it = || {
            self.memory.half(task, t.task_pid) == Some(tid)
                && self.memory.half(task, t.task_tgid) == Some(tgid)
        };
        let stack = self.memory.word(task, t.task_stack).filter(|_| is_it())?;
        let size = u64::from(t.regs_ss) + 8;
        let number = PADDINGS.into_iter().find_map(|padding| {
            let registers = stack.checked_add(THREAD_SIZE - padding)?.checked_sub(size)?;
            let selector = |offset| Some(self.memory.word(registers, offset)? & 0xffff);
            let proven = selector(t.regs_cs)? == USER_CS && selector(t.regs_ss)? == USER_DS;
            proven
                .then(|| self.memory.word(registers, t.regs_orig_ax))
                .flatten()
        })?;
        is_it().then_some(number)
    }

    /// An umount2 that has not returned, with its caller, as its record will have it; without the path, which is in the
    /// caller's memory.
    #[must_use]
    pub fn umount_under_way(self, tid: u32, call: &UmountCall) -> Option<RawUmount> {
        let t = &self.layout.table;
        let task = call.task;
        let tgid = self.memory.half(task, t.task_tgid)?;
        let leader = self.memory.word(task, t.task_group_leader)?;
        let start = self.memory.word(leader, t.task_start_boottime)?;
        let fs = self.memory.word(task, t.task_fs)?;
        let nsproxy = self.memory.word(task, t.task_nsproxy).unwrap_or(0);
        let namespace = self.memory.word(nsproxy, t.nsproxy_mnt_ns).unwrap_or(0);
        let comm = self
            .comms(&[task])
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_default();
        let directory = |offset| {
            let path = self.path_addresses(&[fs], offset).into_iter().flatten().next();
            let PathAddress { mount, dentry } = path.unwrap_or_default();
            (mount, dentry)
        };
        // Last, for all that was read before.
        if self.memory.half(task, t.task_pid) != Some(tid) {
            return None;
        }
        Some(RawUmount {
            task,
            source: call.source,
            entered: call.entered,
            checked: None,
            returned: 0,
            ret: 0,
            flags: call.flags,
            caller: Process {
                pid: tgid,
                tid: Some(tid),
                comm: Text::from(comm.as_slice()),
                mount_namespace: self.memory.half(namespace, t.mnt_ns_inum),
                ..Process::default()
            },
            start,
            path: None,
            cwd: directory(t.fs_pwd),
            root: directory(t.fs_root),
            target: (call.target.mount != 0).then_some((call.target.mount, call.target.dentry)),
            target_number: (call.target_number != 0).then_some(call.target_number),
            busy_check: false,
            compared: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::layout, Kernel, THREAD_SIZE, USER_CS, USER_DS};
    use crate::kernel::{PerCpu, RecordedMemory, ways::Ways};

    const TASK: u64 = 0xffff_8880_0000_0000;
    const STACK: u64 = 0xffff_c900_0000_0000;

    /// The system call of a thread whose registers are so far below the top of its stack.
    fn system_call(padding: u64, cs: u64, tid: u32) -> Option<u64> {
        let mut layout = layout();
        let table = &mut layout.table;
        (table.regs_orig_ax, table.regs_cs, table.regs_ss) = (120, 136, 160);
        let mut memory = RecordedMemory::default();
        let ids = [(table.task_pid, 8_u32), (table.task_tgid, 7)];
        for (offset, id) in ids {
            memory.write(TASK + u64::from(offset), &id.to_le_bytes());
        }
        memory.write_word(TASK + u64::from(table.task_stack), STACK);
        let registers = STACK + THREAD_SIZE - padding - 168;
        for (offset, word) in [(120, 166), (136, cs), (160, USER_DS)] {
            memory.write_word(registers + offset, word);
        }
        for offset in [104, 112, 144, 152] {
            memory.write_word(registers + offset, 0);
        }
        let (per_cpu, ways) = (PerCpu::default(), Ways::default());
        let kernel = Kernel {
            memory: &memory,
            layout: &layout,
            per_cpu: &per_cpu,
            ways: &ways,
        };
        kernel.system_call(TASK, 7, tid)
    }

    #[test]
    fn registers_at_the_top_of_the_stack_prove_themselves() {
        assert_eq!(system_call(0, USER_CS, 8), Some(166));
        // FRED has more in the upper bits of the word.
        assert_eq!(system_call(16, 0x1_0000 | USER_CS, 8), Some(166));
        // 32-bit callers; a thread of before.
        assert_eq!(system_call(0, 0x23, 8), None);
        assert_eq!(system_call(0, USER_CS, 9), None);
    }
}
