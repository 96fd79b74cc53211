//! Identity of processes, remembered: what has just died is still known from when it was seen.

use std::{cell::RefCell, sync::Arc};

use crate::{
    identity::{BootClock, Bounded, Containers, ProcessReader, requester},
    model::Process,
};

/// Processes remembered at the most; the oldest are forgotten when there are more.
const REMEMBERED_MAX: usize = 8192;

/// Completes processes from /proc, and remembers them.
#[derive(Debug)]
pub struct Identities {
    reader: ProcessReader,
    seen: RefCell<Bounded<(u32, u64), Process>>,
}

impl Identities {
    /// Reads `/proc` and the runtimes' files.
    #[must_use]
    pub fn new(clock: BootClock, containers: Arc<Containers>, cmdline: bool) -> Self {
        Self {
            reader: ProcessReader::new(clock, containers, cmdline),
            seen: RefCell::new(Bounded::new(REMEMBERED_MAX)),
        }
    }

    /// The containers.
    #[must_use]
    pub fn containers(&self) -> &Containers {
        self.reader.containers()
    }

    /// Completes a process that the kernel named, with its start on the boot clock. What the kernel said stays;
    /// where the process is gone, or its pid is another's now, nothing is added.
    #[must_use]
    pub fn complete(&self, process: &Process, start: u64) -> Process {
        let key = (process.pid, start);
        let known = self.seen.borrow().get(&key).cloned();
        let Some(found) = known.or_else(|| self.reader.read(process.pid, process.tid, Some(start))) else {
            return process.clone();
        };
        self.seen.borrow_mut().insert(key, found.clone());
        Process {
            pid: process.pid,
            tid: process.tid,
            comm: process.comm.clone(),
            exe: process.exe.clone().or(found.exe),
            mount_namespace: process.mount_namespace.or(found.mount_namespace),
            uid: process.uid.or(found.uid),
            // Those of the moment when the kernel named it, which may have died since; /proc knows more of them.
            parents: if found.parents.starts_with(&process.parents) {
                found.parents
            } else {
                process.parents.clone()
            },
            requester: None,
            cmdline: found.cmdline,
            start_time: found.start_time,
            pid_namespace: found.pid_namespace,
            unit: found.unit,
            container: found.container,
        }
    }

    /// The same of somebody who called umount, with who asked for it. An ancestor may outlive the caller, which the
    /// kernel has named.
    #[must_use]
    pub fn complete_caller(&self, process: &Process, start: u64) -> Process {
        let mut caller = self.complete(process, start);
        let behind = requester(caller.comm.as_bytes(), &caller.parents);
        caller.requester = behind.map(|parent| Box::new(self.reader.requester(parent)));
        caller
    }
}
