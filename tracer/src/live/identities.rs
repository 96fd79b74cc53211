//! Identity of processes, remembered: what has just died is still known from when it was seen.

use std::{
    cell::{OnceCell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    identity::{BootClock, Bounded, Containers, ProcessReader, arguments, requester},
    kernel::{Kernel, ProcessFacts, UserMemory},
    model::{Container, Parent, Process, Requester, Text},
    watchdog::{self, Step},
};

/// Processes remembered at the most; the oldest are forgotten when there are more.
const REMEMBERED_MAX: usize = 8192;
/// Bytes of a command line at the most.
const COMMAND_LINE_MAX: u64 = 64 << 10;

/// A process executes another program, is moved to another cgroup, or its container is read about: after that time it is
/// looked at again, if it is still there.
const FRESH: Duration = Duration::from_secs(1);

/// A process as it was seen.
#[derive(Debug, Clone)]
struct Remembered {
    process: Process,
    seen: Instant,
    /// How much was known of containers then.
    containers: u64,
}

/// Completes processes from kernel memory and their cgroup, and remembers them.
#[derive(Debug)]
pub struct Identities {
    reader: ProcessReader,
    /// Whether command lines are read: they may hold secrets.
    cmdline: bool,
    user: OnceCell<Option<UserMemory>>,
    /// Those of root, and those of others, who may have any number of processes.
    seen: [RefCell<Bounded<(u32, u64), Remembered>>; 2],
}

impl Identities {
    /// Reads kernel memory, `/proc` and the runtimes' files.
    #[must_use]
    pub fn new(clock: BootClock, containers: Arc<Containers>, cmdline: bool) -> Self {
        Self {
            reader: ProcessReader::new(clock, containers),
            cmdline,
            user: OnceCell::new(),
            seen: [(); 2].map(|()| RefCell::new(Bounded::new(REMEMBERED_MAX))),
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
    pub fn complete(&self, kernel: Kernel<'_>, process: &Process, start: u64) -> Process {
        let Some(found) = self.remembered(kernel, process, start) else {
            return process.clone();
        };
        Process {
            pid: process.pid,
            tid: process.tid,
            comm: process.comm.clone(),
            exe: process.exe.clone().or(found.exe),
            mount_namespace: process.mount_namespace.or(found.mount_namespace),
            uid: process.uid.or(found.uid),
            // Those of the moment when the kernel named it, which may have died since; more are known now.
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
    pub fn complete_caller(&self, kernel: Kernel<'_>, process: &Process, start: u64) -> Process {
        let mut caller = self.complete(kernel, process, start);
        let behind = requester(caller.comm.as_bytes(), &caller.parents);
        caller.requester = behind.map(|parent| Box::new(self.requester(kernel, parent)));
        caller
    }

    /// What is known of a process: as it was when it was last there.
    fn remembered(&self, kernel: Kernel<'_>, process: &Process, start: u64) -> Option<Process> {
        let key = (process.pid, start);
        let containers = self.containers().learned();
        let seen = &self.seen[usize::from(process.uid.is_some_and(|uid| uid != 0))];
        let before = seen.borrow().get(&key).cloned();
        let is_fresh = |known: &Remembered| known.containers == containers && known.seen.elapsed() < FRESH;
        let (fresh, old) = match before {
            Some(known) if is_fresh(&known) => return Some(known.process),
            old => (self.look(kernel, process, start), old),
        };
        // One that exits has no namespaces any more, and less and less else.
        let is_whole = |now: &Process| old.is_none() || now.mount_namespace.is_some();
        let Some(process) = fresh.filter(is_whole) else {
            return old.map(|known| known.process);
        };
        let known = Remembered {
            process: process.clone(),
            seen: Instant::now(),
            containers,
        };
        seen.borrow_mut().insert(key, known);
        Some(process)
    }

    fn look(&self, kernel: Kernel<'_>, process: &Process, start: u64) -> Option<Process> {
        let _step = watchdog::within_process(Step::Process, process.pid);
        if !kernel.finds_processes() {
            return self.reader.read(process.pid, process.tid, Some(start));
        }
        let facts = kernel.process(process.pid).filter(|facts| facts.start == start)?;
        let (container, unit) = self.home(kernel, &facts);
        Some(Process {
            pid: facts.pid,
            uid: facts.uid,
            parents: self.parents(kernel, &facts),
            start_time: Some(self.reader.start_time(facts.start)),
            cmdline: self.command_line(kernel, &facts),
            mount_namespace: facts.mount_namespace,
            pid_namespace: facts.pid_namespace,
            comm: Text::from(facts.comm),
            unit,
            container,
            ..Process::default()
        })
    }

    /// The container or the unit of a process that is still there after the look.
    fn home(&self, kernel: Kernel<'_>, facts: &ProcessFacts) -> (Option<Container>, Option<String>) {
        if !kernel.numbers_are_those_of_proc() {
            return (None, None);
        }
        let home = self.reader.home(facts.pid);
        if kernel.is_process(facts) {
            home
        } else {
            (None, None)
        }
    }

    fn parents(&self, kernel: Kernel<'_>, child: &ProcessFacts) -> Vec<Parent> {
        let parent = |facts: ProcessFacts| Parent {
            pid: facts.pid,
            start_time: Some(self.reader.start_time(facts.start)),
            comm: Text::from(facts.comm),
        };
        kernel.ancestors(child).into_iter().map(parent).collect()
    }

    fn command_line(&self, kernel: Kernel<'_>, facts: &ProcessFacts) -> Option<Vec<Text>> {
        let find = || {
            let found = UserMemory::find(kernel);
            if found.is_none() {
                log::warn!("command lines are not shown: this kernel's page tables could not be read");
            }
            found
        };
        let user = self.cmdline.then(|| *self.user.get_or_init(find)).flatten()?;
        let text = kernel.command_line(user, facts.task, COMMAND_LINE_MAX)?;
        kernel.is_process(facts).then(|| arguments(&text))
    }

    /// Who an ancestor is, if its id still is that of the same program.
    fn requester(&self, kernel: Kernel<'_>, parent: &Parent) -> Requester {
        let _step = watchdog::within_process(Step::Process, parent.pid);
        let facts = kernel.process(parent.pid);
        let facts = facts.filter(|facts| facts.comm == parent.comm.as_bytes());
        let (container, unit) = facts.map_or((None, None), |facts| self.home(kernel, &facts));
        Requester {
            pid: parent.pid,
            comm: parent.comm.clone(),
            unit,
            container,
        }
    }
}
