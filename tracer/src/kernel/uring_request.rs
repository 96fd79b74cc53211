//! Requests of an io_uring under way, which keep their files: those that wait for an event are in a table of the ring,
//! those that a worker does are found at the worker, those that wait for a free worker in lists that the worker leads
//! to, and direct I/O of a ring that is polled (`IORING_SETUP_IOPOLL`) in a list of the ring until somebody reaps it. And
//! rings that a work item takes down.
//!
//! Not looked at: requests of other rings that a driver completes by itself (block devices).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tracer_common::ABSENT;

use super::{context::Kernel, listing::Listing, memory::is_kernel_address, task::Task};

/// Buckets of a table at the most, as a power of two (8 in `io_uring/io_uring.c`; 5.10 to 7.2).
const BITS_MAX: u32 = 12;
/// Requests in a bucket, and requests that follow each other, at the most.
const REQUESTS_MAX: usize = 1 << 16;
const LINKS_MAX: usize = 1 << 10;
/// Accounts of waiting work: bounded and unbounded (`IO_WQ_ACCT_NR` of `io_uring/io-wq.c`; 5.15 to 7.2).
const ACCOUNTS: u64 = 2;

/// A request that a worker does, or is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Working {
    /// Index of the task of a worker: a thread of who asked (Linux 5.12 on, and stable 5.10).
    pub(super) task: usize,
    /// Its ring.
    pub(super) ring: u64,
    /// The `io_kiocb`.
    pub(super) address: u64,
}

/// A hash table of requests.
struct Buckets {
    array: u32,
    bits: u32,
    size: u32,
    list: u32,
}

impl Kernel<'_> {
    /// The requests that workers do, and those that wait for one of them. As long as anything waits there is a worker:
    /// the last one stays.
    pub(super) fn requests_of_workers(self, tasks: &[Task]) -> Listing<Vec<Working>> {
        let t = &self.layout.table;
        let worker = either(t.task_worker, t.task_uring_worker);
        let needed = [worker, t.uring_worker_task, t.uring_worker_work, t.request_work];
        if needed.contains(&ABSENT) {
            return Listing::new(Vec::new(), true);
        }
        let threads = numbered(tasks, |task| task.mm != 0);
        let workers = self.leading_back(threads, worker, t.uring_worker_task, tasks);
        let addresses: Vec<u64> = workers.iter().map(|(_, worker)| *worker).collect();
        let done = self.memory.words(&addresses, t.uring_worker_work);
        let mut works: Vec<(usize, u64)> = workers
            .iter()
            .zip(done)
            .filter_map(|((task, _), work)| Some((*task, work?)))
            .collect();
        let complete = self.works_that_wait(&workers, &mut works);
        works.retain(|(_, work)| is_kernel_address(*work));
        let requests: Vec<u64> = works
            .iter()
            .map(|(_, work)| work.wrapping_sub(u64::from(t.request_work)))
            .collect();
        let rings = self.memory.words(&requests, t.request_ring);
        let mut known = HashMap::new();
        let requests = works
            .into_iter()
            .zip(requests.into_iter().zip(rings))
            .filter_map(|((task, _), (address, ring))| {
                let ring = ring?;
                let is_ring = *known.entry(ring).or_insert_with(|| self.is_ring(ring));
                is_ring.then_some(Working { task, ring, address })
            })
            .collect();
        Listing::new(requests, complete)
    }

    /// Adds the work that waits for one of the workers, and says whether the lists were whole.
    fn works_that_wait(self, workers: &[(usize, u64)], works: &mut Vec<(usize, u64)>) -> bool {
        let t = &self.layout.table;
        let mut lists = Vec::new();
        if ![t.uring_queue_accounts, t.uring_account_first].contains(&ABSENT) {
            lists.extend((0..ACCOUNTS).map(|account| {
                let size = u64::from(self.layout.uring_account);
                u64::from(t.uring_queue_accounts) + account * size + u64::from(t.uring_account_first)
            }));
        } else if t.uring_queue_first != ABSENT {
            lists.push(u64::from(t.uring_queue_first));
        }
        if lists.is_empty() || [t.uring_worker_queue, t.uring_work_link].contains(&ABSENT) {
            return workers.is_empty();
        }
        let addresses: Vec<u64> = workers.iter().map(|(_, worker)| *worker).collect();
        let mut queues = BTreeMap::new();
        for ((task, _), queue) in workers
            .iter()
            .zip(self.memory.words(&addresses, t.uring_worker_queue))
        {
            if let Some(queue) = queue.filter(|queue| is_kernel_address(*queue)) {
                queues.entry(queue).or_insert(*task);
            }
        }
        let (owners, heads): (Vec<usize>, Vec<u64>) = queues
            .into_iter()
            .flat_map(|(queue, task)| lists.iter().map(move |list| (task, queue.wrapping_add(*list))))
            .unzip();
        let mut complete = true;
        for (task, first) in owners.into_iter().zip(self.memory.words(&heads, 0)) {
            let Some(first) = first.filter(|first| is_kernel_address(*first)) else {
                continue;
            };
            // It is not protected by RCU: what was taken out under the walk leads nowhere, or into another list.
            let chain = self.memory.chase(first, 0, 0, REQUESTS_MAX);
            complete &= chain.complete;
            let link = u64::from(t.uring_work_link);
            works.extend(
                chain
                    .nodes
                    .into_iter()
                    .map(|node| (task, node.wrapping_sub(link))),
            );
        }
        complete
    }

    /// The rings that workers of workqueues take down.
    pub(super) fn rings_taken_down(self, tasks: &[Task]) -> BTreeSet<u64> {
        let exit = self.layout.table.uring_exit_work;
        if exit == ABSENT {
            return BTreeSet::new();
        }
        let works = self.works_under_way(tasks).into_iter();
        works
            .map(|work| work.wrapping_sub(u64::from(exit)))
            .filter(|ring| self.is_ring(*ring))
            .collect()
    }

    /// What workers of workqueues do: `work_struct`s of anything.
    pub(super) fn works_under_way(self, tasks: &[Task]) -> Vec<u64> {
        let t = &self.layout.table;
        let kthread = either(t.task_worker, t.task_child_tid);
        if [kthread, t.kthread_data, t.worker_task, t.worker_work].contains(&ABSENT) {
            return Vec::new();
        }
        let threads = numbered(tasks, |task| task.mm == 0);
        let (threads, kthreads): (Vec<usize>, Vec<u64>) =
            self.pointers(threads, kthread, tasks).into_iter().unzip();
        let data = self.memory.words(&kthreads, t.kthread_data);
        let (threads, workers): (Vec<usize>, Vec<u64>) = threads
            .into_iter()
            .zip(data)
            .filter_map(|(task, worker)| Some((task, worker.filter(|worker| is_kernel_address(*worker))?)))
            .unzip();
        let owners = self.memory.words(&workers, t.worker_task);
        let works = self.memory.words(&workers, t.worker_work);
        threads
            .into_iter()
            .zip(owners.into_iter().zip(works))
            .filter(|(task, (owner, _))| *owner == Some(tasks[*task].address))
            .filter_map(|(_, (_, work))| work.filter(|work| is_kernel_address(*work)))
            .collect()
    }

    /// The requests of a ring that wait for an event, with those that are to follow them; `None` if they could not be
    /// read.
    pub(super) fn requests_that_wait(self, ring: u64) -> Option<Vec<u64>> {
        let t = &self.layout.table;
        let table = |array, bits, size, list| Buckets {
            array,
            bits,
            size,
            list,
        };
        let tables = [
            table(t.uring_waiting, t.uring_waiting_bits, 8, 0),
            table(
                t.uring_buckets,
                t.uring_bucket_bits,
                self.layout.uring_bucket,
                t.uring_bucket_list,
            ),
            table(
                t.uring_locked_buckets,
                t.uring_locked_bucket_bits,
                self.layout.uring_bucket,
                t.uring_bucket_list,
            ),
        ];
        let known = |table: &&Buckets| ![table.array, table.bits, table.list].contains(&ABSENT);
        let mut tables = tables.iter().filter(known).peekable();
        if tables.peek().is_none() || [t.request_node, t.request_ring].contains(&ABSENT) {
            return None;
        }
        let mut requests = Vec::new();
        for table in tables {
            let bits = self.memory.half(ring, table.bits)?;
            let array = self.memory.word(ring, table.array)?;
            if bits > BITS_MAX || !is_kernel_address(array) {
                return None;
            }
            let heads: Vec<u64> = (0..1_u64 << bits)
                .map(|bucket| array.wrapping_add(bucket * u64::from(table.size) + u64::from(table.list)))
                .collect();
            for first in self.memory.words(&heads, 0) {
                let Some(first) = first.filter(|first| is_kernel_address(*first)) else {
                    continue;
                };
                let nodes = self.memory.chase(first, 0, 0, REQUESTS_MAX).nodes;
                requests.extend(
                    nodes
                        .into_iter()
                        .map(|node| node.wrapping_sub(u64::from(t.request_node))),
                );
            }
        }
        Some(requests)
    }

    /// The requests of a ring that nobody has reaped, where the driver is polled for them; `None` if the list changed
    /// under the walk.
    pub(super) fn requests_to_reap(self, ring: u64) -> Option<Vec<u64>> {
        let t = &self.layout.table;
        if [t.uring_polled, t.request_polled].contains(&ABSENT) {
            return Some(Vec::new());
        }
        let head = ring.wrapping_add(u64::from(t.uring_polled));
        let first = self.memory.word(head, 0)?;
        let chain = self.memory.chase(first, 0, head, REQUESTS_MAX);
        let request = |node: u64| node.wrapping_sub(u64::from(t.request_polled));
        chain
            .complete
            .then(|| chain.nodes.into_iter().map(request).collect())
    }

    /// The files of requests, by their ring.
    pub(super) fn files_of_requests(self, requests: &[(u64, u64)]) -> BTreeSet<(u64, u64)> {
        let t = &self.layout.table;
        let mut files = BTreeSet::new();
        if [t.request_ring, t.request_file].contains(&ABSENT) {
            return files;
        }
        // Each with those that are to follow it, one step of all at a time: many wait for a worker.
        let mut at = requests.to_vec();
        for _ in 0..LINKS_MAX {
            let addresses: Vec<u64> = at.iter().map(|(_, request)| *request).collect();
            let rings = self.memory.words(&addresses, t.request_ring);
            // One that was done meanwhile may be of another ring.
            at = at
                .into_iter()
                .zip(rings)
                .filter_map(|((ring, request), found)| (found == Some(ring)).then_some((ring, request)))
                .collect();
            if at.is_empty() {
                break;
            }
            let addresses: Vec<u64> = at.iter().map(|(_, request)| *request).collect();
            let found = self.memory.words(&addresses, t.request_file);
            files.extend(at.iter().zip(found).filter_map(|((ring, _), file)| {
                Some((*ring, file.filter(|file| is_kernel_address(*file))?))
            }));
            if t.request_link == ABSENT {
                break;
            }
            let next = self.memory.words(&addresses, t.request_link);
            at = at
                .into_iter()
                .zip(next)
                .filter_map(|((ring, _), next)| Some((ring, next.filter(|next| is_kernel_address(*next))?)))
                .collect();
        }
        files
    }

    /// Whether the lists of a ring are there: each leads back to itself.
    fn is_ring(self, ring: u64) -> bool {
        let t = &self.layout.table;
        is_kernel_address(ring)
            && [t.uring_overflow, t.uring_tasks].into_iter().all(|list| {
                let head = ring.wrapping_add(u64::from(list));
                let next = self.memory.word(head, 0);
                list != ABSENT
                    && next.is_some_and(|next| {
                        is_kernel_address(next) && self.memory.word(next, 8) == Some(head)
                    })
            })
    }

    /// What tasks point to, if anything.
    fn pointers(self, threads: Vec<usize>, offset: u32, tasks: &[Task]) -> Vec<(usize, u64)> {
        let addresses: Vec<u64> = threads.iter().map(|index| tasks[*index].address).collect();
        let pointers = self.memory.words(&addresses, offset);
        threads
            .into_iter()
            .zip(pointers)
            .filter_map(|(task, pointer)| {
                Some((task, pointer.filter(|pointer| is_kernel_address(*pointer))?))
            })
            .collect()
    }

    /// The same, of what points back to the task.
    fn leading_back(self, threads: Vec<usize>, offset: u32, back: u32, tasks: &[Task]) -> Vec<(usize, u64)> {
        let found = self.pointers(threads, offset, tasks);
        let addresses: Vec<u64> = found.iter().map(|(_, pointer)| *pointer).collect();
        let owners = self.memory.words(&addresses, back);
        found
            .into_iter()
            .zip(owners)
            .filter(|((task, _), owner)| *owner == Some(tasks[*task].address))
            .map(|(found, _)| found)
            .collect()
    }
}

/// The first that this kernel has.
fn either(first: u32, second: u32) -> u32 {
    if first == ABSENT { second } else { first }
}

/// The indices of some tasks.
fn numbered(tasks: &[Task], which: impl Fn(&Task) -> bool) -> Vec<usize> {
    (0..tasks.len()).filter(|index| which(&tasks[*index])).collect()
}
