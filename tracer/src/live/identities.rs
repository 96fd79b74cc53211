//! Identity of processes, remembered: what has just died is still known from when it was seen.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use crate::{
    identity::{BootClock, Containers, ProcessReader},
    model::Process,
};

/// Processes remembered at the most; all are forgotten when there are more.
const REMEMBERED_MAX: usize = 8192;

/// Completes processes from /proc, and remembers them.
#[derive(Debug)]
pub struct Identities {
    reader: ProcessReader,
    seen: RefCell<HashMap<(u32, u64), Process>>,
}

impl Identities {
    /// Reads `/proc` and the runtimes' files.
    #[must_use]
    pub fn new(clock: BootClock, containers: Arc<Containers>, cmdline: bool) -> Self {
        Self {
            reader: ProcessReader::new(clock, containers, cmdline),
            seen: RefCell::default(),
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
        let mut seen = self.seen.borrow_mut();
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.entry(key).or_insert_with(|| found.clone());
        Process {
            pid: process.pid,
            tid: process.tid,
            comm: process.comm.clone(),
            exe: process.exe.clone().or(found.exe),
            mount_namespace: process.mount_namespace.or(found.mount_namespace),
            uid: process.uid.or(found.uid),
            parents: if found.parents.is_empty() {
                process.parents.clone()
            } else {
                found.parents
            },
            cmdline: found.cmdline,
            start_time: found.start_time,
            pid_namespace: found.pid_namespace,
            unit: found.unit,
            container: found.container,
        }
    }
}
