//! UNIX sockets that are bound to a path, and open files in flight over UNIX sockets (`SCM_RIGHTS`).
//!
//! A file in flight belongs to whoever can receive it: the processes that have the socket in whose queue it is. That
//! socket can be in flight itself, or wait to be accepted. What no process can receive any more is garbage, which the
//! kernel collects when any UNIX socket is closed (net/unix/garbage.c).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    rc::Rc,
};

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    file::PathAddress,
    found::Users,
    found::{Carried, Found, unique},
    listing::{Listing, note},
    memory::{is_kernel_address, u64_at},
    needs::{Needs, has},
    net::SOCKETS_MAX,
    walk::Walk,
};
use crate::model::{Kind, Text, UNIX_GARBAGE};

/// `AF_UNIX` (include/linux/socket.h).
const AF_UNIX: u8 = 1;
/// `TCP_ESTABLISHED` and `TCP_LISTEN` (`include/net/tcp_states.h`), which UNIX sockets use as well.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// `SCM_MAX_FD` (include/net/scm.h).
const FILES_MAX: usize = 253;
/// Messages in one queue at the most.
const QUEUE_MAX: usize = 1 << 16;
/// Messages in all queues at the most.
const MESSAGES_MAX: usize = 1 << 20;
/// The bucket of the global table from which on sockets were never bound.
const UNNAMED: usize = 256;

/// A UNIX socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnixSocket {
    state: u8,
    /// What it is bound to.
    path: Option<PathAddress>,
    /// Its open file; none until it is accepted, and once it is closed.
    file: Option<u64>,
    inode: Option<u64>,
    /// Whether it was bound itself; one that was accepted has its path from the listener.
    bound: Option<bool>,
}

/// A message in the queue of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    receiver: u64,
    /// The socket that it was sent from; in the queue of a listener the one to be accepted.
    socket: u64,
    pid: Option<u32>,
    files: Vec<u64>,
}

/// What is known of all UNIX sockets.
#[derive(Debug, Default)]
struct Sockets {
    all: BTreeMap<u64, UnixSocket>,
    by_file: HashMap<u64, u64>,
    messages: Vec<Message>,
    /// The processes that have a socket, or that can receive or accept it.
    users: HashMap<u64, Rc<Users>>,
    complete: bool,
}

pub(super) const NEEDS: Needs = needs![
    sock_family,
    sock_state,
    sock_socket,
    sock_queue,
    socket_sk,
    socket_file,
    unix_path,
];

impl Walk<'_, '_> {
    /// Sockets bound to a path on a mount of interest; all files in flight go to [`Walk::carried`].
    pub(super) fn unix_sockets(&mut self) {
        let t = &self.kernel.layout.table;
        if !has(NEEDS, t) {
            note(
                self.gaps,
                false,
                "UNIX sockets: this kernel's type information lacks fields",
            );
            return;
        }
        let in_flight = [t.skb_sk, t.skb_cb, t.unix_cb_fp, t.scm_count, t.scm_files];
        note(
            self.gaps,
            !in_flight.contains(&ABSENT),
            "files in flight over UNIX sockets: this kernel's type information lacks fields",
        );

        let mut users: HashMap<u64, Users> = HashMap::new();
        for file in self.census.sockets() {
            users.insert(*file, self.census.users(*file));
        }
        for carried in &self.carried {
            users
                .entry(carried.file)
                .or_default()
                .extend(carried.users.iter().copied());
        }
        let files = unique(users.keys().copied());
        let known = self.kernel.sockets_of(&files);
        let of_processes: Vec<u64> = known.iter().map(|(_, socket)| *socket).collect();
        let of_processes = self.kernel.only_unix(&of_processes);
        let hashed = self.kernel.hashed_sockets(self.tasks, &of_processes);
        note(
            self.gaps,
            hashed.complete || self.tasks.iter().all(|task| task.nsproxy == 0),
            "UNIX sockets that no process has: their table was not found or changed under the walk",
        );
        let mut sockets = Sockets {
            complete: true,
            ..Sockets::default()
        };
        let buckets: HashMap<u64, usize> = hashed.sockets.iter().map(|(b, socket)| (*socket, *b)).collect();
        let start = unique(of_processes.into_iter().chain(buckets.keys().copied()));
        self.kernel.gather(&mut sockets, start, &buckets);
        note(
            self.gaps,
            sockets.complete,
            "a queue of a UNIX socket changed under the walk",
        );
        for (file, socket) in &sockets.by_file {
            if let Some(users) = users.get(file) {
                sockets.users.insert(*socket, Rc::new(users.clone()));
            }
        }
        sockets.pass_on();
        let garbage = self.kernel.garbage(&sockets);
        self.bound_sockets(&sockets, &garbage);
        self.in_flight(&sockets, &garbage);
    }

    fn bound_sockets(&mut self, sockets: &Sockets, garbage: &HashSet<u64>) {
        let listeners = sockets.listeners();
        for (address, socket) in &sockets.all {
            let Some(path) = socket.path.filter(|path| self.interest.contains(&path.mount)) else {
                continue;
            };
            let found = if garbage.contains(address) {
                Found {
                    held_by: Some(Text::from(UNIX_GARBAGE.to_owned())),
                    ..Found::new(Kind::Deferred, *address, path)
                }
            } else {
                let listener = listeners
                    .get(address)
                    .and_then(|listener| sockets.all.get(listener));
                let users = sockets
                    .users
                    .get(address)
                    .into_iter()
                    .flat_map(|users| users.iter());
                Found {
                    held_by: Some(Text::from(socket.held_by(listener))),
                    ..Found::new(Kind::UnixSocket, *address, path).used_by(self.tasks, users.copied())
                }
            };
            self.add(found);
        }
    }

    fn in_flight(&mut self, sockets: &Sockets, garbage: &HashSet<u64>) {
        let all = sockets.messages.iter().flat_map(|message| &message.files);
        let all = unique(all.copied());
        // Most of what is in flight is elsewhere, and whoever sends it decides how much it is.
        let wanted = self.kernel.files_on(&all, &self.interest, false);
        for message in &sockets.messages {
            let files: Vec<u64> = (message.files.iter().copied())
                .filter(|file| wanted.contains_key(file))
                .collect();
            if files.is_empty() {
                continue;
            }
            let users = sockets.users.get(&message.receiver).cloned().unwrap_or_default();
            let dropped = garbage.contains(&message.receiver);
            let held_by = if dropped {
                UNIX_GARBAGE.to_owned()
            } else {
                let sender = message.pid.or_else(|| {
                    // Without credentials: whoever has the socket that it was sent from.
                    let users = sockets.users.get(&message.socket)?.iter();
                    let first = users.min_by_key(|(index, _)| self.tasks[*index].start)?;
                    Some(self.tasks[first.0].tgid)
                });
                let mut held_by = sockets
                    .all
                    .get(&message.receiver)
                    .map_or_else(|| "a UNIX socket".to_owned(), UnixSocket::name);
                if let Some(sender) = sender {
                    held_by = format!("{held_by}, sent by {sender}");
                }
                held_by
            };
            for file in files {
                self.carried.push(Carried {
                    kind: if dropped { Kind::Deferred } else { Kind::ScmRights },
                    file,
                    users: Rc::clone(&users),
                    held_by: Some(Text::from(held_by.clone())),
                    request: None,
                });
            }
        }
    }
}

impl UnixSocket {
    fn name(&self) -> String {
        self.inode
            .map_or_else(|| "a UNIX socket".to_owned(), |inode| format!("socket:[{inode}]"))
    }

    /// What it does with its path; `listener` is the one that it waits for to be accepted.
    fn held_by(&self, listener: Option<&Self>) -> String {
        let what = match (self.state, self.bound) {
            _ if listener.is_some() => "not accepted yet",
            (LISTEN, _) => "listening",
            (ESTABLISHED, Some(false)) => "accepted",
            (ESTABLISHED, None) => "connected",
            _ => "bound",
        };
        format!("{what}, {}", listener.unwrap_or(self).name())
    }
}

impl Sockets {
    /// Which socket one waits for to be accepted.
    fn listeners(&self) -> HashMap<u64, u64> {
        let listening = |address| self.all.get(address).is_some_and(|socket| socket.state == LISTEN);
        let waiting = self
            .messages
            .iter()
            .filter(|message| listening(&message.receiver));
        waiting
            .map(|message| (message.socket, message.receiver))
            .collect()
    }

    /// The sockets that come with a message: those in flight, and the one to be accepted.
    fn brought<'s>(&'s self, message: &'s Message) -> impl Iterator<Item = u64> + 's {
        let listening = self
            .all
            .get(&message.receiver)
            .is_some_and(|socket| socket.state == LISTEN);
        let files = message
            .files
            .iter()
            .filter_map(|file| self.by_file.get(file).copied());
        files.chain(listening.then_some(message.socket))
    }

    /// Who has a socket has what waits in it.
    fn pass_on(&mut self) {
        let mut brings: HashMap<u64, Vec<u64>> = HashMap::new();
        for message in &self.messages {
            brings
                .entry(message.receiver)
                .or_default()
                .extend(self.brought(message));
        }
        let first: BTreeSet<u64> = self.users.keys().copied().collect();
        let mut queue = VecDeque::from_iter(first);
        while let Some(socket) = queue.pop_front() {
            let users = self.users.get(&socket).cloned().unwrap_or_default();
            for brought in brings.get(&socket).into_iter().flatten() {
                if !self.users.contains_key(brought) {
                    self.users.insert(*brought, users.clone());
                    queue.push_back(*brought);
                }
            }
        }
    }

    /// Sockets that only sockets in flight have, where `references` gives the kernel's count of a file: nothing else
    /// keeps them, nor anything that they are in.
    fn garbage(&self, references: &HashMap<u64, u64>) -> HashSet<u64> {
        let mut flights: HashMap<u64, u64> = HashMap::new();
        let mut brings: HashMap<u64, Vec<u64>> = HashMap::new();
        for message in &self.messages {
            for brought in self.brought(message) {
                *flights.entry(brought).or_default() += 1;
                brings.entry(message.receiver).or_default().push(brought);
            }
        }
        // Whoever is kept by something else keeps what waits in it.
        let mut garbage: HashSet<u64> = self
            .all
            .iter()
            .filter(|(address, socket)| {
                let flights = flights.get(address).copied().unwrap_or(0);
                !self.users.contains_key(address)
                    && flights > 0
                    && socket
                        .file
                        .is_none_or(|file| references.get(&file) == Some(&flights))
            })
            .map(|(address, _)| *address)
            .collect();
        // Each carrier passes on once that it is kept: a chain of sockets in each other costs its length.
        let mut kept: Vec<u64> = brings.keys().copied().collect();
        kept.retain(|carrier| !garbage.contains(carrier));
        while let Some(carrier) = kept.pop() {
            for brought in brings.remove(&carrier).unwrap_or_default() {
                if garbage.remove(&brought) {
                    kept.push(brought);
                }
            }
        }
        garbage
    }
}

impl Kernel<'_> {
    /// File and `struct sock` of the files that are sockets: the `struct socket` leads back to its file, and its
    /// `struct sock` to it.
    fn sockets_of(&self, files: &[u64]) -> Vec<(u64, u64)> {
        let t = &self.layout.table;
        let sockets = self.follow(files, t.file_private);
        let back = self.follow(&sockets, t.socket_file);
        let inner = self.follow(&sockets, t.socket_sk);
        let outer = self.follow(&inner, t.sock_socket);
        (0..files.len())
            .filter(|index| back[*index] == files[*index] && outer[*index] == sockets[*index])
            .filter(|index| sockets[*index] != 0 && inner[*index] != 0)
            .map(|index| (files[index], inner[index]))
            .collect()
    }

    /// The words at `offset`; 0 for what is no address.
    fn follow(&self, addresses: &[u64], offset: u32) -> Vec<u64> {
        let words = self.memory.words(addresses, offset);
        words
            .into_iter()
            .map(|word| word.filter(|word| is_kernel_address(*word)).unwrap_or(0))
            .collect()
    }

    fn only_unix(&self, sockets: &[u64]) -> Vec<u64> {
        let families = self.memory.read_batch(sockets, self.layout.table.sock_family, 2);
        sockets
            .iter()
            .zip(families.iter())
            .filter(|(_, family)| *family == Some(&[AF_UNIX, 0][..]))
            .map(|(socket, _)| *socket)
            .collect()
    }

    /// Reads sockets with what waits in them, and the sockets among that, and so on.
    fn gather(&self, sockets: &mut Sockets, start: Vec<u64>, buckets: &HashMap<u64, usize>) {
        let mut next = start;
        while !next.is_empty() && sockets.all.len() < SOCKETS_MAX {
            let read = self.read_sockets(&next, buckets);
            let addresses: Vec<u64> = read.iter().map(|(address, _)| *address).collect();
            for (address, socket) in read {
                if let Some(file) = socket.file {
                    sockets.by_file.insert(file, address);
                }
                sockets.all.insert(address, socket);
            }
            let room = MESSAGES_MAX.saturating_sub(sockets.messages.len());
            let messages = self
                .messages(&addresses, &sockets.all, room)
                .joined_to(&mut sockets.complete);
            let files = unique(messages.iter().flat_map(|message| message.files.iter().copied()));
            let waiting = messages.iter().filter(|message| {
                let receiver = sockets.all.get(&message.receiver);
                receiver.is_some_and(|receiver| receiver.state == LISTEN)
            });
            let found = self.sockets_of(&files).into_iter().map(|(_, socket)| socket);
            next = unique(found.chain(waiting.map(|message| message.socket)));
            next.retain(|socket| !sockets.all.contains_key(socket));
            sockets.messages.extend(messages);
        }
    }

    fn read_sockets(&self, addresses: &[u64], buckets: &HashMap<u64, usize>) -> Vec<(u64, UnixSocket)> {
        let t = &self.layout.table;
        let addresses = self.only_unix(addresses);
        let states = self.memory.read_batch(&addresses, t.sock_state, 1);
        let paths = self.path_addresses(&addresses, t.unix_path);
        let outer = self.follow(&addresses, t.sock_socket);
        let inner = self.follow(&outer, t.socket_sk);
        let files = self.follow(&outer, t.socket_file);
        let inodes = self.memory.words(&outer, t.socket_inode);
        let backs = self.memory.words(&addresses, t.sock_bind_pprev);
        let read = addresses.iter().enumerate().filter_map(|(index, address)| {
            let has_socket = outer[index] != 0 && inner[index] == *address;
            let socket = UnixSocket {
                state: *states.get(index)?.first()?,
                path: paths[index].filter(|path| path.mount != 0),
                file: (has_socket && files[index] != 0).then_some(files[index]),
                inode: inodes[index].filter(|_| has_socket),
                bound: if t.net_unix_buckets == ABSENT {
                    buckets.get(address).map(|bucket| *bucket < UNNAMED)
                } else {
                    backs[index].map(|back| back != 0)
                },
            };
            Some((*address, socket))
        });
        read.collect()
    }

    /// What waits in sockets, as far as it carries files or is to be accepted.
    fn messages(
        &self,
        sockets: &[u64],
        all: &BTreeMap<u64, UnixSocket>,
        room: usize,
    ) -> Listing<Vec<Message>> {
        let t = &self.layout.table;
        let mut complete = true;
        let mut buffers: Vec<(u64, u64)> = Vec::new();
        for (socket, first) in sockets.iter().zip(self.memory.words(sockets, t.sock_queue)) {
            let head = socket.wrapping_add(u64::from(t.sock_queue));
            if let Some(first) = first.filter(|first| *first != head && is_kernel_address(*first)) {
                // `sk_buff.next` is the first word of a buffer, as it is of the head.
                let most = QUEUE_MAX.min(room.saturating_sub(buffers.len()));
                let chain = self.memory.chase(first, 0, head, most);
                complete &= chain.complete;
                buffers.extend(chain.nodes.into_iter().map(|buffer| (*socket, buffer)));
            }
        }
        let addresses: Vec<u64> = buffers.iter().map(|(_, buffer)| *buffer).collect();
        let from = self.follow(&addresses, t.skb_sk);
        let lists = self.follow(&addresses, t.skb_cb.saturating_add(t.unix_cb_fp));
        let pids = self.follow(&addresses, t.skb_cb.saturating_add(t.unix_cb_pid));
        let numbers = self.memory.halves(&pids, t.pid_numbers.saturating_add(t.upid_nr));
        let mut messages = Vec::new();
        for (index, (receiver, _)) in buffers.into_iter().enumerate() {
            let listening = all.get(&receiver).is_some_and(|socket| socket.state == LISTEN);
            let files = if lists[index] == 0 || listening {
                Vec::new()
            } else {
                self.files_in(lists[index])
            };
            if !files.is_empty() || listening {
                messages.push(Message {
                    receiver,
                    socket: from[index],
                    pid: numbers[index].filter(|pid| *pid != 0),
                    files,
                });
            }
        }
        Listing::new(messages, complete)
    }

    /// The files of a `scm_fp_list`.
    fn files_in(&self, list: u64) -> Vec<u64> {
        let t = &self.layout.table;
        let batch = self.memory.read_batch(&[list], t.scm_count, 2);
        let count = batch
            .get(0)
            .map_or(0, |count| usize::from(count[0]) | usize::from(count[1]) << 8);
        if count == 0 || count > FILES_MAX {
            return Vec::new();
        }
        let batch = self.memory.read_batch(&[list], t.scm_files, count * 8);
        let words = (0..count).filter_map(|index| u64_at(batch.get(0)?, index * 8));
        words.filter(|file| is_kernel_address(*file)).collect()
    }

    /// The sockets that only sockets in flight keep.
    fn garbage(&self, sockets: &Sockets) -> HashSet<u64> {
        let unowned = sockets
            .all
            .iter()
            .filter(|(address, _)| !sockets.users.contains_key(address));
        let files = unique(unowned.filter_map(|(_, socket)| socket.file));
        let counts = self.file_references(&files);
        let references = files
            .into_iter()
            .zip(counts)
            .filter_map(|(file, count)| Some((file, count?)))
            .collect();
        sockets.garbage(&references)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Message, Sockets, UnixSocket};

    /// Sockets in flight in each other, each sent over the one before: the first is what the kernel counts it for.
    fn garbage_of_chain(length: u64, references: u64) -> usize {
        let mut sockets = Sockets::default();
        let file = |socket: u64| 1_000_000 + socket;
        for socket in 0..length {
            sockets.all.insert(
                socket,
                UnixSocket {
                    state: 1,
                    path: None,
                    file: Some(file(socket)),
                    inode: None,
                    bound: None,
                },
            );
            sockets.by_file.insert(file(socket), socket);
            // The last one is sent over the first.
            sockets.messages.push(Message {
                receiver: socket,
                socket,
                pid: None,
                files: vec![file((socket + 1) % length)],
            });
        }
        let mut counts: HashMap<u64, u64> = (0..length).map(|socket| (file(socket), 1)).collect();
        counts.insert(file(0), references);
        sockets.garbage(&counts).len()
    }

    #[test]
    fn a_chain_of_sockets_in_each_other_costs_its_length() {
        const LENGTH: u64 = 100_000;
        // Only they have each other; or somebody else has the first, and with it all of them.
        assert_eq!(garbage_of_chain(LENGTH, 1), LENGTH as usize);
        assert_eq!(garbage_of_chain(LENGTH, 2), 0);
    }
}
