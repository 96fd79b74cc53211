//! A process by its number, from kernel memory. Files of /proc/PID tell the same, but to read them takes a reference on the
//! address space or a namespace of the process for a moment: whoever lets go last takes it down, with all its mappings and
//! mounts, and waits for the file systems of those.

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    memory::{is_kernel_address, u64_at},
};

/// `PIDTYPE_TGID` (include/linux/pid.h; 4.19 to 7.2).
const PROCESS: u32 = 1;
/// Sizes of a `struct hlist_head` and a `struct hlist_node`.
const HEAD: u32 = 8;
const NODE: u32 = 16;
/// Size of a `struct upid`: a number and a pointer (include/linux/pid.h; 5.10 to 7.2).
const UPID: u64 = 16;
/// `MAX_PID_NS_LEVEL`.
const LEVELS: u32 = 32;
/// Levels of the tree of numbers: of 6 bits each, for 22 bits.
const DEPTH: usize = 4;
/// Index of a slot in a node of that tree (`XA_CHUNK_MASK`), and what marks a node (`xa_is_node`, include/linux/xarray.h).
const SLOT: u64 = 63;
const INTERNAL: u64 = 2;
/// Ancestors beyond that tell nothing more.
const ANCESTORS_MAX: usize = 16;

/// What a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Address of its leader's `task_struct`.
    pub task: u64,
    /// Process id.
    pub pid: u32,
    /// Command name of its leader.
    pub comm: Vec<u8>,
    /// Start, boot clock, ns.
    pub start: u64,
    /// Real user id.
    pub uid: Option<u32>,
    /// Number of the mount namespace; none once it exits.
    pub mount_namespace: Option<u32>,
    /// Number of the pid namespace.
    pub pid_namespace: Option<u32>,
}

impl Kernel<'_> {
    /// The process with this number in the first pid namespace, if there is one.
    #[must_use]
    pub fn process(self, pid: u32) -> Option<ProcessFacts> {
        self.process_beside(self.ways.task(), pid)
    }

    /// Whether it is still that process.
    #[must_use]
    pub fn is_process(self, facts: &ProcessFacts) -> bool {
        let t = &self.layout.table;
        self.memory.half(facts.task, t.task_tgid) == Some(facts.pid)
            && self.memory.word(facts.task, t.task_start_boottime) == Some(facts.start)
    }

    /// Whether processes can be found by their number on this kernel.
    #[must_use]
    pub fn finds_processes(self) -> bool {
        self.ways.open() && !self.fields_of_numbers().contains(&ABSENT)
    }

    /// Whether /proc shows the numbers of the first pid namespace: it does if it shows our own so.
    #[must_use]
    pub fn numbers_are_those_of_proc(self) -> bool {
        self.memory.half(self.ways.task(), self.layout.table.task_tgid) == Some(std::process::id())
    }

    /// The same, in the first namespace of a task that is there.
    fn process_beside(self, own: u64, pid: u32) -> Option<ProcessFacts> {
        let facts = self.facts(self.task_of(own, pid)?)?;
        // It was that process all the time.
        (facts.pid == pid && self.is_process(&facts)).then_some(facts)
    }

    /// Ancestors, nearest first. One that is younger than its child got the address of a parent that has just died.
    #[must_use]
    pub fn ancestors(self, child: &ProcessFacts) -> Vec<ProcessFacts> {
        let t = &self.layout.table;
        let mut found: Vec<ProcessFacts> = Vec::new();
        let (mut task, mut start) = (child.task, child.start);
        while found.len() < ANCESTORS_MAX {
            let parent = self.memory.word(task, t.task_real_parent);
            let leader = parent.and_then(|parent| self.memory.word(parent, t.task_group_leader));
            let Some(parent) = leader.and_then(|leader| self.facts(leader)) else {
                break;
            };
            if parent.pid == 0 || parent.start > start || found.iter().any(|seen| seen.task == parent.task) {
                break;
            }
            (task, start) = (parent.task, parent.start);
            found.push(parent);
        }
        found
    }

    fn facts(self, task: u64) -> Option<ProcessFacts> {
        let t = &self.layout.table;
        let memory = self.memory;
        let behind = |object: u64, pointer: u32, field: u32| {
            if pointer == ABSENT || field == ABSENT {
                return None;
            }
            let object = memory
                .word(object, pointer)
                .filter(|object| is_kernel_address(*object))?;
            memory.half(object, field)
        };
        let nsproxy = memory
            .word(task, t.task_nsproxy)
            .filter(|proxy| is_kernel_address(*proxy));
        Some(ProcessFacts {
            task,
            pid: memory.half(task, t.task_tgid)?,
            comm: self.comms(&[task]).pop()??,
            start: memory.word(task, t.task_start_boottime)?,
            uid: behind(task, t.task_real_cred, t.cred_uid),
            mount_namespace: nsproxy.and_then(|proxy| behind(proxy, t.nsproxy_mnt_ns, t.mnt_ns_inum)),
            pid_namespace: self
                .pid_namespace(task)
                .filter(|_| t.pid_ns_inum != ABSENT)
                .and_then(|namespace| memory.half(namespace, t.pid_ns_inum)),
        })
    }

    /// Address of the pid namespace that a task is in.
    fn pid_namespace(self, task: u64) -> Option<u64> {
        let t = &self.layout.table;
        if [t.task_thread_pid, t.pid_level, t.pid_numbers, t.upid_ns].contains(&ABSENT) {
            return None;
        }
        let pid = self.memory.word(task, t.task_thread_pid)?;
        let level = self
            .memory
            .half(pid, t.pid_level)
            .filter(|level| *level <= LEVELS)?;
        let number = pid.checked_add(u64::from(t.pid_numbers) + u64::from(level) * UPID)?;
        self.memory
            .word(number, t.upid_ns)
            .filter(|namespace| is_kernel_address(*namespace))
    }

    fn fields_of_numbers(self) -> [u32; 8] {
        let t = &self.layout.table;
        [
            t.task_thread_pid,
            t.pid_numbers,
            t.upid_ns,
            t.pid_ns_numbers,
            t.xa_node_shift,
            t.xa_node_slots,
            t.pid_tasks,
            t.task_pid_links,
        ]
    }

    /// The leader of the process with this number in the first pid namespace.
    fn task_of(self, own: u64, pid: u32) -> Option<u64> {
        let t = &self.layout.table;
        if own == 0 || self.fields_of_numbers().contains(&ABSENT) {
            return None;
        }
        // The first namespace is that of every task's outermost number.
        let thread = self.memory.word(own, t.task_thread_pid)?;
        let outermost = thread.checked_add(u64::from(t.pid_numbers))?;
        let namespace = self.memory.word(outermost, t.upid_ns)?;
        let mut entry = self.memory.word(namespace, t.pid_ns_numbers)?;
        for _ in 0..DEPTH {
            if entry & 3 != INTERNAL {
                break;
            }
            let node = entry - INTERNAL;
            let shift = *self
                .memory
                .read_batch(&[node], t.xa_node_shift, 1)
                .get(0)?
                .first()?;
            let slot = (u64::from(pid) >> shift.min(60)) & SLOT;
            let slots = self
                .memory
                .read_batch(&[node.checked_add(slot * 8)?], t.xa_node_slots, 8);
            entry = u64_at(slots.get(0)?, 0)?;
        }
        let found = Some(entry).filter(|entry| is_kernel_address(*entry) && *entry % 4 == 0)?;
        let node = self
            .memory
            .word(found, t.pid_tasks.checked_add(PROCESS * HEAD)?)?;
        let link = u64::from(t.task_pid_links) + u64::from(PROCESS * NODE);
        node.checked_sub(link).filter(|task| is_kernel_address(*task))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kernel, ProcessFacts};
    use crate::kernel::{PerCpu, RecordedMemory, testing::layout, ways::Ways};

    const BASE: u64 = 0xffff_8880_0000_0000;
    const OWN: u64 = BASE;
    const NAMESPACE: u64 = BASE + 0x1_0000;
    const NODE: u64 = BASE + 0x2_0000;
    const LEAF: u64 = BASE + 0x3_0000;
    const CRED: u64 = BASE + 0x4_0000;
    const PROXY: u64 = BASE + 0x5_0000;
    const MOUNTS: u64 = BASE + 0x6_0000;

    /// Where a process has its task and its number.
    const fn at(pid: u32) -> (u64, u64) {
        let task = BASE + 0x100_0000 + pid as u64 * 0x2_0000;
        (task, task + 0x1_0000)
    }

    fn plant(memory: &mut RecordedMemory, pid: u32, parent: u32, start: u64) {
        let t = layout().table;
        let (task, number) = at(pid);
        let word = |memory: &mut RecordedMemory, at: u64, offset: u32, word: u64| {
            memory.write_word(at + u64::from(offset), word);
        };
        word(memory, task, t.task_thread_pid, number);
        word(memory, task, t.task_group_leader, task);
        word(memory, task, t.task_real_parent, at(parent).0);
        word(memory, task, t.task_start_boottime, start);
        word(memory, task, t.task_real_cred, CRED);
        word(memory, task, t.task_nsproxy, PROXY);
        memory.write(task + u64::from(t.task_tgid), &pid.to_le_bytes());
        memory.write(task + u64::from(t.task_comm), b"agent\0\0\0\0\0\0\0\0\0\0\0");
        memory.write(number + u64::from(t.pid_level), &0_u32.to_le_bytes());
        word(memory, number, t.pid_numbers + t.upid_ns, NAMESPACE);
        word(
            memory,
            number,
            t.pid_tasks + 8,
            task + u64::from(t.task_pid_links) + 16,
        );
        // 6 bits a level: the node's shift is 6, the leaf's 0.
        word(memory, LEAF, t.xa_node_slots + (pid & 63) * 8, number);
        word(memory, NODE, t.xa_node_slots + (pid >> 6) * 8, LEAF + 2);
    }

    fn memory() -> RecordedMemory {
        let t = layout().table;
        let mut memory = RecordedMemory::default();
        memory.write_word(OWN + u64::from(t.task_thread_pid), at(1).1);
        memory.write_word(at(1).1 + u64::from(t.pid_numbers + t.upid_ns), NAMESPACE);
        memory.write_word(NAMESPACE + u64::from(t.pid_ns_numbers), NODE + 2);
        memory.write(NAMESPACE + u64::from(t.pid_ns_inum), &77_u32.to_le_bytes());
        memory.write(NODE + u64::from(t.xa_node_shift), &[6]);
        memory.write(LEAF + u64::from(t.xa_node_shift), &[0]);
        memory.write(CRED + u64::from(t.cred_uid), &1000_u32.to_le_bytes());
        memory.write_word(PROXY + u64::from(t.nsproxy_mnt_ns), MOUNTS);
        memory.write(MOUNTS + u64::from(t.mnt_ns_inum), &88_u32.to_le_bytes());
        plant(&mut memory, 65, 66, 100);
        plant(&mut memory, 66, 67, 50);
        memory
    }

    fn with<R>(memory: &RecordedMemory, ask: impl FnOnce(Kernel<'_>) -> R) -> R {
        let (layout, per_cpu, ways) = (layout(), PerCpu::default(), Ways::default());
        ask(Kernel {
            memory,
            layout: &layout,
            per_cpu: &per_cpu,
            ways: &ways,
        })
    }

    #[test]
    fn a_process_is_found_by_its_number() {
        let memory = memory();
        let found = with(&memory, |kernel| kernel.process_beside(OWN, 65));
        let expected = ProcessFacts {
            task: at(65).0,
            pid: 65,
            comm: b"agent".to_vec(),
            start: 100,
            uid: Some(1000),
            mount_namespace: Some(88),
            pid_namespace: Some(77),
        };
        assert_eq!(found, Some(expected.clone()));
        assert_eq!(with(&memory, |kernel| kernel.process_beside(OWN, 64)), None);
        assert_eq!(with(&memory, |kernel| kernel.process_beside(OWN, 65 << 6)), None);
        let parents = with(&memory, |kernel| kernel.ancestors(&expected));
        assert_eq!(parents.iter().map(|parent| parent.pid).collect::<Vec<_>>(), [66]);
    }

    #[test]
    fn trees_and_ancestors_that_lead_in_circles_end() {
        let t = layout().table;
        let mut memory = memory();
        plant(&mut memory, 66, 65, 100);
        let child = with(&memory, |kernel| kernel.process_beside(OWN, 65)).unwrap();
        // Each is its own ancestor's ancestor.
        assert_eq!(with(&memory, |kernel| kernel.ancestors(&child)).len(), 2);
        // A number that is another's by now.
        memory.write(at(65).0 + u64::from(t.task_tgid), &9_u32.to_le_bytes());
        assert_eq!(with(&memory, |kernel| kernel.process_beside(OWN, 65)), None);
        // A node that leads to itself.
        memory.write_word(LEAF + u64::from(t.xa_node_slots) + 8, LEAF + 2);
        assert_eq!(with(&memory, |kernel| kernel.process_beside(OWN, 65)), None);
    }
}
