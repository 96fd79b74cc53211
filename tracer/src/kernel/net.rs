//! The hash tables that every UNIX socket is in, whether a process has it or not: one for each network namespace since
//! Linux 6.0, one for the host before.

use std::collections::HashSet;

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    found::unique,
    listing::Listing,
    memory::{is_kernel_address, u64_at},
    task::Task,
};

/// Buckets of a table (`2 * UNIX_HASH_SIZE` up to Linux 5.17, `UNIX_HASH_SIZE` later; `include/net/af_unix.h`).
const BUCKETS: usize = 512;

/// Sockets at the most.
pub(super) const SOCKETS_MAX: usize = 1 << 20;

/// Network namespaces at the most.
const NAMESPACES_MAX: usize = 1 << 16;

/// Sockets that are tried as a way to the table of the host.
const TRIED_MAX: usize = 32;

/// Nodes of the chain of one of them at the most.
const CHAIN_MAX: usize = 1 << 12;

/// UNIX sockets found in tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hashed {
    /// Bucket and `struct sock`.
    pub(super) sockets: Vec<(usize, u64)>,
    /// Whether all chains ended where they should.
    pub(super) complete: bool,
}

impl Kernel<'_> {
    /// All UNIX sockets of the host. `known` are those that processes have: before Linux 6.0 they lead to the table.
    pub(super) fn hashed_sockets(&self, tasks: &[Task], known: &[u64]) -> Hashed {
        let t = &self.layout.table;
        if t.net_unix_buckets == ABSENT {
            let table = self.global_table(known);
            return table.map_or_else(Hashed::default, |table| self.table(table));
        }
        let Listing {
            items: namespaces,
            complete,
        } = self.network_namespaces(tasks);
        let mut all = Hashed {
            complete,
            ..Hashed::default()
        };
        for table in self.memory.words(&namespaces, t.net_unix_buckets) {
            // The head of the ring passes for a namespace as well: it has no table.
            let Some(table) = table.filter(|table| is_kernel_address(*table)) else {
                continue;
            };
            let mut hashed = self.table(table);
            for _ in 0..2 {
                if hashed.complete {
                    break;
                }
                hashed = self.table(table);
            }
            all.complete &= hashed.complete || hashed.sockets.is_empty();
            all.sockets.extend(hashed.sockets);
        }
        all
    }

    /// Namespaces of tasks, and from one of them the ring of all: a socket can outlive the last task of its namespace.
    fn network_namespaces(&self, tasks: &[Task]) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        let proxies = unique(tasks.iter().map(|task| task.nsproxy).filter(|proxy| *proxy != 0));
        let mut all: Vec<u64> = self
            .memory
            .words(&proxies, t.nsproxy_net_ns)
            .into_iter()
            .flatten()
            .filter(|namespace| is_kernel_address(*namespace))
            .collect();
        let Some(first) = all.first().filter(|_| t.net_list != ABSENT) else {
            return Listing::new(all, true);
        };
        let link = u64::from(t.net_list);
        let ring = self.memory.ring(first.wrapping_add(link), NAMESPACES_MAX);
        all.extend(ring.nodes.iter().map(|node| node.wrapping_sub(link)));
        Listing::new(unique(all.into_iter()), ring.complete)
    }

    /// Link and back pointer of nodes of a chain; `None` for what is in none: the back pointer leads to the node.
    fn chained(&self, nodes: &[u64]) -> Vec<Option<(u64, u64)>> {
        let batch = self.memory.read_batch(nodes, 0, 16);
        let links: Vec<Option<(u64, u64)>> = batch
            .iter()
            .map(|piece| Some((u64_at(piece?, 0)?, u64_at(piece?, 8)?)))
            .collect();
        let back: Vec<u64> = links
            .iter()
            .map(|link| link.map_or(0, |(_, back)| back))
            .collect();
        let there = self.memory.words(&back, 0);
        links
            .into_iter()
            .zip(nodes.iter().zip(there))
            .map(|(link, (node, there))| link.filter(|_| there == Some(*node)))
            .collect()
    }

    /// The sockets of a table, all chains a step at a time.
    fn table(&self, table: u64) -> Hashed {
        let link = u64::from(self.layout.table.sock_node);
        let batch = self.memory.read_batch(&[table], 0, BUCKETS * 8);
        let Some(heads) = batch.get(0) else {
            return Hashed::default();
        };
        let mut hashed = Hashed {
            complete: true,
            ..Hashed::default()
        };
        let mut at: Vec<(usize, u64)> = (0..BUCKETS)
            .filter_map(|bucket| Some((bucket, u64_at(heads, bucket * 8)?)))
            .filter(|(_, node)| *node != 0)
            .collect();
        let mut seen = HashSet::new();
        while !at.is_empty() {
            let nodes: Vec<u64> = at.iter().map(|(_, node)| *node).collect();
            let links = self.chained(&nodes);
            let mut following = Vec::new();
            for ((bucket, node), link_of) in at.into_iter().zip(links) {
                let Some((next, _)) = link_of.filter(|_| seen.insert(node) && seen.len() <= SOCKETS_MAX)
                else {
                    hashed.complete = false;
                    continue;
                };
                hashed.sockets.push((bucket, node.wrapping_sub(link)));
                if next != 0 {
                    following.push((bucket, next));
                }
            }
            at = following;
        }
        hashed
    }

    /// The table of the host (`unix_socket_table`, up to Linux 5.19): the chain of a socket leads back to its bucket,
    /// and which bucket a socket without an address is in follows from where it is in memory (`unix_sockets_unbound`
    /// in `net/unix/af_unix.c`).
    fn global_table(&self, known: &[u64]) -> Option<u64> {
        let t = &self.layout.table;
        let addresses = self.memory.words(known, t.unix_addr);
        let unnamed = known
            .iter()
            .zip(addresses)
            .filter(|(_, address)| *address == Some(0));
        unnamed.take(TRIED_MAX).find_map(|(socket, _)| {
            let head = self.head_of(socket.wrapping_add(u64::from(t.sock_node)))?;
            let table = head.wrapping_sub(8 * unnamed_bucket(*socket));
            let hashed = self.table(table);
            // What begins elsewhere is no table: not all words of it would be chains.
            (hashed.complete && hashed.sockets.iter().any(|(_, found)| found == socket)).then_some(table)
        })
    }

    /// The head of the chain that a node is in: the first back pointer that leads to no node.
    fn head_of(&self, mut node: u64) -> Option<u64> {
        for _ in 0..CHAIN_MAX {
            let (_, back) = self.chained(&[node]).pop().flatten()?;
            if self.chained(&[back]).pop().flatten().is_none() {
                return Some(back);
            }
            node = back;
        }
        None
    }
}

/// The bucket of a socket that was never bound, before Linux 5.17.
fn unnamed_bucket(socket: u64) -> u64 {
    let hash = socket ^ socket >> 16;
    let hash = hash ^ hash >> 8;
    BUCKETS as u64 / 2 + hash % (BUCKETS as u64 / 2)
}

#[cfg(test)]
mod tests {
    use tracer_common::Layout;

    use super::{BUCKETS, Hashed, unnamed_bucket};
    use crate::kernel::{Kernel, KernelLayout, PerCpu, RecordedMemory, Task, testing, ways::Ways};

    const TABLE: u64 = 0xffff_8880_0001_0000;
    const SOCKET: u64 = 0xffff_8880_0123_4000;
    const NODE: u32 = 0x68;

    /// A table with a chain of two sockets that were not bound, and the layout of a kernel.
    fn machine(set: &[(&str, u32)]) -> (RecordedMemory, KernelLayout) {
        let mut table = Layout::absent();
        for (name, offset) in [("sock_node", NODE), ("unix_addr", 0x300)].iter().chain(set) {
            assert!(table.set(name, *offset));
        }
        let layout = KernelLayout {
            table,
            ..testing::layout()
        };
        let mut memory = RecordedMemory::default();
        memory.write(TABLE, &[0; BUCKETS * 8]);
        let head = TABLE + 8 * unnamed_bucket(SOCKET);
        // One that came later is before it.
        let (first, second) = (SOCKET + 0x1_0000 + u64::from(NODE), SOCKET + u64::from(NODE));
        memory.write_word(SOCKET + 0x300, 0);
        memory.write_word(head, first);
        for (node, next, back) in [(first, second, head), (second, 0, first)] {
            memory.write_word(node, next);
            memory.write_word(node + 8, back);
        }
        (memory, layout)
    }

    fn sockets(memory: &RecordedMemory, layout: &KernelLayout, tasks: &[Task], known: &[u64]) -> Hashed {
        let per_cpu = PerCpu {
            offsets: Vec::new(),
            unknown: None,
        };
        let kernel = Kernel {
            memory,
            layout,
            per_cpu: &per_cpu,
            ways: &Ways::default(),
        };
        kernel.hashed_sockets(tasks, known)
    }

    fn both() -> Hashed {
        let bucket = unnamed_bucket(SOCKET) as usize;
        Hashed {
            sockets: vec![(bucket, SOCKET + 0x1_0000), (bucket, SOCKET)],
            complete: true,
        }
    }

    #[test]
    fn a_socket_without_an_address_leads_to_the_table_of_the_host() {
        let (memory, layout) = machine(&[]);
        assert_eq!(sockets(&memory, &layout, &[], &[SOCKET]), both());
        assert!(!sockets(&memory, &layout, &[], &[]).complete);
    }

    #[test]
    fn a_namespace_has_its_own_table_and_the_head_of_the_ring_none() {
        let (mut memory, layout) = machine(&[
            ("nsproxy_net_ns", 0x28),
            ("net_list", 0x18),
            ("net_unix_buckets", 0x250),
        ]);
        let (proxy, namespace, head) = (TABLE + 0x4000, TABLE + 0x5000, TABLE + 0x6000);
        memory.write_word(proxy + 0x28, namespace);
        memory.write_word(namespace + 0x18, head);
        memory.write_word(head, namespace + 0x18);
        memory.write_word(namespace + 0x250, TABLE);
        // What follows the head is no table.
        memory.write_word(head - 0x18 + 0x250, SOCKET);
        let task = Task {
            address: 0,
            tid: 1,
            tgid: 1,
            start: 0,
            fs: 0,
            files: 0,
            mm: 0,
            nsproxy: proxy,
        };
        assert_eq!(sockets(&memory, &layout, &[task], &[]), both());
    }

    #[test]
    fn a_chain_that_does_not_lead_back_is_left() {
        let (mut memory, layout) = machine(&[]);
        let found = |memory: &RecordedMemory| sockets(memory, &layout, &[], &[SOCKET]);
        memory.write_word(SOCKET + u64::from(NODE), SOCKET + 0x1_0000 + u64::from(NODE));
        assert_eq!(found(&memory), Hashed::default());
        memory.write_word(SOCKET + u64::from(NODE) + 8, 0);
        assert_eq!(found(&memory), Hashed::default());
    }
}
