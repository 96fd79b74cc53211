//! All threads of the host, from the kernel's own lists.

use std::collections::{HashMap, HashSet};

use super::{context::Kernel, listing::Listing, memory::is_kernel_address};

/// Processes, or threads of one, at the most (`PID_MAX_LIMIT`).
const TASKS_MAX: usize = 4 << 20;

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Address of its `task_struct`.
    pub address: u64,
    /// Thread id.
    pub tid: u32,
    /// Process id.
    pub tgid: u32,
    /// Start of the process, boot clock, ns.
    pub start: u64,
    /// Address of its `fs_struct`; 0 once it exits.
    pub fs: u64,
    /// Address of its `files_struct`; 0 once it exits.
    pub files: u64,
    /// Address of its `mm_struct`; 0 for a kernel thread.
    pub mm: u64,
    /// Address of its `nsproxy`.
    pub nsproxy: u64,
}

/// All threads, and whether the walk was whole.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Leaders first within their process.
    pub all: Vec<Task>,
    /// Whether all lists ended where they should.
    pub complete: bool,
}

impl Kernel<'_> {
    /// Walks all processes, starting from any task, and their threads.
    #[must_use]
    pub fn tasks(&self, start: u64) -> Tasks {
        let t = &self.layout.table;
        let link = u64::from(t.task_tasks);
        let leader = self.memory.word(start, t.task_group_leader).unwrap_or(start);
        let head = leader.wrapping_add(link);
        // The list of processes is protected by RCU, so one chase sees a consistent chain. A leader that exits
        // under the walk can cut it short: then once more.
        let mut complete = false;
        let mut leaders = Vec::new();
        for _ in 0..3 {
            let ring = self.memory.ring(head, TASKS_MAX);
            leaders = ring.nodes.iter().map(|node| node.wrapping_sub(link)).collect();
            if ring.complete {
                complete = true;
                break;
            }
        }
        leaders.push(leader);
        // A ring that does not lead back goes round until the cap.
        let mut seen = HashSet::with_capacity(leaders.len().min(1 << 16));
        leaders.retain(|leader| seen.insert(*leader));
        let threads = self.threads(&leaders).joined_to(&mut complete);
        Tasks {
            all: self.read_tasks(&threads),
            complete,
        }
    }

    /// The threads of each process, all processes one step at a time: most have one thread.
    fn threads(&self, leaders: &[u64]) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        let link = u64::from(t.task_thread_node);
        let signals = self.memory.words(leaders, t.task_signal);
        let heads: Vec<u64> = signals
            .iter()
            .map(|signal| signal.map_or(0, |signal| signal.wrapping_add(u64::from(t.signal_thread_head))))
            .collect();
        let mut all: Vec<u64> = Vec::with_capacity(leaders.len());
        let mut complete = true;
        let mut at: Vec<(u64, u64)> = heads
            .iter()
            .filter(|head| **head != 0)
            .map(|head| (*head, *head))
            .collect();
        let mut seen = HashSet::new();
        while !at.is_empty() {
            let addresses: Vec<u64> = at.iter().map(|(node, _)| *node).collect();
            let next = self.memory.words(&addresses, 0);
            let mut following = Vec::new();
            for ((_, head), next) in at.iter().zip(next) {
                match next {
                    Some(next) if next == *head => {}
                    // No thread is in a ring twice: it has changed under the walk, and does not lead back.
                    Some(next) if is_kernel_address(next) && seen.insert(next) => {
                        all.push(next.wrapping_sub(link));
                        following.push((next, *head));
                    }
                    _ => complete = false,
                }
            }
            at = following;
        }
        Listing::new(all, complete)
    }

    fn read_tasks(&self, addresses: &[u64]) -> Vec<Task> {
        let t = &self.layout.table;
        let (tids, tgids) = (
            self.memory.halves(addresses, t.task_pid),
            self.memory.halves(addresses, t.task_tgid),
        );
        let starts = self.memory.words(addresses, t.task_start_boottime);
        let fs = self.memory.words(addresses, t.task_fs);
        let files = self.memory.words(addresses, t.task_files);
        let mms = self.memory.words(addresses, t.task_mm);
        let nsproxies = self.memory.words(addresses, t.task_nsproxy);
        let mut tasks: Vec<Task> = (0..addresses.len())
            .filter_map(|index| {
                Some(Task {
                    address: addresses[index],
                    tid: tids[index]?,
                    tgid: tgids[index]?,
                    start: starts[index]?,
                    fs: fs[index]?,
                    files: files[index]?,
                    mm: mms[index]?,
                    nsproxy: nsproxies[index]?,
                })
            })
            .filter(|task| task.tid != 0)
            .collect();
        // A thread's start is its own; that of its process is the leader's.
        let leaders: HashMap<u32, u64> = tasks
            .iter()
            .filter(|task| task.tid == task.tgid)
            .map(|task| (task.tgid, task.start))
            .collect();
        for task in &mut tasks {
            task.start = leaders.get(&task.tgid).copied().unwrap_or(task.start);
        }
        tasks.sort_by_key(|task| (task.tgid, task.tid != task.tgid, task.tid));
        tasks
    }

    /// Whether a task is still the one that was read.
    #[must_use]
    pub fn is_task(&self, task: &Task) -> bool {
        let t = &self.layout.table;
        self.memory.half(task.address, t.task_pid) == Some(task.tid)
            && self.memory.half(task.address, t.task_tgid) == Some(task.tgid)
    }

    /// Command names of threads.
    #[must_use]
    pub fn comms(&self, tasks: &[u64]) -> Vec<Option<Vec<u8>>> {
        let batch = self.memory.read_batch(tasks, self.layout.table.task_comm, 16);
        let end = |name: &[u8]| name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        batch
            .iter()
            .map(|piece| piece.map(|name| name[..end(name)].to_vec()))
            .collect()
    }

    /// Mount namespaces of tasks: address by nsproxy.
    #[must_use]
    pub fn mount_namespaces(&self, tasks: &[Task]) -> HashMap<u64, u64> {
        let mut proxies: Vec<u64> = tasks
            .iter()
            .map(|task| task.nsproxy)
            .filter(|proxy| *proxy != 0)
            .collect();
        proxies.sort_unstable();
        proxies.dedup();
        let namespaces = self.memory.words(&proxies, self.layout.table.nsproxy_mnt_ns);
        proxies
            .into_iter()
            .zip(namespaces)
            .filter_map(|(proxy, namespace)| Some((proxy, namespace?)))
            .collect()
    }
}
