//! What a walk finds, before it has names.

use std::{collections::BTreeMap, rc::Rc};

use super::{file::PathAddress, task::Task};
use crate::model::{Kind, TakesAlong, Text};

/// Tasks by their index, with a descriptor where they have one.
pub(super) type Users = Vec<(usize, Option<u32>)>;

/// A reference before it has names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) also: Vec<Kind>,
    pub(super) refs: u64,
    pub(super) object: u64,
    pub(super) path: PathAddress,
    /// Index of the owner in the list of tasks.
    pub(super) owner: Option<usize>,
    pub(super) fd: Option<u32>,
    /// Other processes: index of a task, descriptor.
    pub(super) sharers: Users,
    /// What in the kernel holds it (`model::Holder::held_by`).
    pub(super) held_by: Option<Text>,
    /// Set for what is only suspected: it becomes a candidate, not a holder.
    pub(super) reason: Option<String>,
    /// Of a mount on top of the target.
    pub(super) takes_along: Option<TakesAlong>,
}

impl Found {
    /// One reference of an object that no process is known to own.
    pub(super) fn new(kind: Kind, object: u64, path: PathAddress) -> Self {
        Self {
            kind,
            also: Vec::new(),
            refs: 1,
            object,
            path,
            owner: None,
            fd: None,
            sharers: Vec::new(),
            held_by: None,
            reason: None,
            takes_along: None,
        }
    }

    /// The same, used by these tasks: the process that started first is the owner.
    pub(super) fn used_by(
        self,
        tasks: &[Task],
        users: impl IntoIterator<Item = (usize, Option<u32>)>,
    ) -> Self {
        let users: Vec<_> = users.into_iter().collect();
        let (owner, sharers) = split(tasks, users.iter().copied());
        let fd = owner.and_then(|owner| users.iter().find(|(index, _)| *index == owner)?.1);
        Self {
            owner,
            fd,
            sharers,
            ..self
        }
    }
}

/// A `struct file` that something in the kernel keeps, beside descriptor tables and address spaces.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) kind: Kind,
    pub(super) file: u64,
    /// The tasks that it belongs to, if any, with the descriptor of what carries it (ring, socket, group).
    pub(super) users: Rc<Users>,
    pub(super) held_by: Option<Text>,
    /// What led to it, where that is to be looked at again.
    pub(super) request: Option<Request>,
}

/// A request of AIO, with what led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Request {
    /// The address space.
    pub(super) space: u64,
    /// The `kioctx`.
    pub(super) context: u64,
    /// The `aio_kiocb`.
    pub(super) kiocb: u64,
    /// Its file.
    pub(super) file: u64,
}

/// Sorted, each once.
pub(super) fn unique(files: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut files: Vec<u64> = files.collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// The owner is the process that started first; of its threads the leader, if it is one of them.
pub(super) fn split(
    tasks: &[Task],
    users: impl Iterator<Item = (usize, Option<u32>)>,
) -> (Option<usize>, Users) {
    let mut processes: BTreeMap<u32, (usize, Option<u32>)> = BTreeMap::new();
    for (index, fd) in users {
        let entry = processes.entry(tasks[index].tgid).or_insert((index, fd));
        if entry.1.is_none() && fd.is_some() || (entry.1.is_some() == fd.is_some() && index < entry.0) {
            *entry = (index, fd);
        }
    }
    let mut all: Users = processes.into_values().collect();
    // Those that have a descriptor come first: they are why the kind is `fd`.
    all.sort_by_key(|(index, fd)| (fd.is_none(), tasks[*index].start, tasks[*index].tgid));
    let owner = all.first().map(|(index, _)| *index);
    (owner, all.into_iter().skip(1).collect())
}
