//! A process by its id, as /proc shows it. This reads no files that need the memory of the process: they wait for
//! whoever provides that memory (docs/security.md). If kernel memory is readable, only the text of `cgroup` is taken
//! from here.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cgroup::membership,
    clock::BootClock,
    container::Containers,
    files::read_proc,
    proc_text::{self, Stat},
};
use crate::{
    model::{Container, Parent, Process, Text, Timestamp},
    watchdog::{self, Step},
};

/// More ancestors add nothing.
const MAX_PARENTS: usize = 16;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Reads processes from /proc, without taking a reference on any of their mounts.
#[derive(Debug, Clone)]
pub struct ProcessReader {
    root: PathBuf,
    clock: BootClock,
    containers: Arc<Containers>,
}

impl ProcessReader {
    /// Reads the processes of this host.
    #[must_use]
    pub fn new(clock: BootClock, containers: Arc<Containers>) -> Self {
        Self {
            root: PathBuf::from("/proc"),
            clock,
            containers,
        }
    }

    /// Start of a process, as exact as /proc has it.
    #[must_use]
    pub fn start_time(&self, start: u64) -> Timestamp {
        self.clock.timestamp(nanos(ticks(start)))
    }

    /// The container of a process, and its unit if the container is not certain. The text of `cgroup` needs neither its
    /// memory nor a reference.
    #[must_use]
    pub fn home(&self, pid: u32) -> (Option<Container>, Option<String>) {
        let text = read_proc(&self.root.join(pid.to_string()).join("cgroup"));
        let member = text.map(|text| membership(&text)).unwrap_or_default();
        match self.containers.of_membership(&member) {
            Some(container) if !container.unproven => (Some(container), None),
            claimed => (claimed, member.unit),
        }
    }

    /// With another /proc.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// The containers that it uses.
    #[must_use]
    pub fn containers(&self) -> &Containers {
        &self.containers
    }

    /// The process, or `None` if it is gone, or if its id now belongs to another process than the one that started
    /// `expect_start` nanoseconds after boot (`start_boottime` of its thread group's leader).
    ///
    /// `comm` is that of the thread. `exe` stays `None`: its link in /proc takes a reference.
    #[must_use]
    pub fn read(&self, pid: u32, tid: Option<u32>, expect_start: Option<u64>) -> Option<Process> {
        let _step = watchdog::within_process(Step::Process, pid);
        let directory = self.root.join(pid.to_string());
        let stat = stat(&directory)?;
        if expect_start.is_some_and(|expected| ticks(expected) != stat.start_ticks) {
            return None;
        }
        let read = |name: &str| read_proc(&directory.join(name)).ok();
        let (container, unit) = self.home(pid);
        let process = Process {
            pid,
            tid,
            comm: thread_name(&directory, tid).unwrap_or_else(|| Text::from(stat.comm.as_slice())),
            exe: None,
            cmdline: None,
            uid: read("status").and_then(|text| proc_text::real_uid(&text)),
            start_time: Some(self.clock.timestamp(nanos(stat.start_ticks))),
            parents: self.parents(&stat),
            requester: None,
            mount_namespace: namespace(&directory, "mnt"),
            pid_namespace: namespace(&directory, "pid"),
            unit,
            container,
        };
        // The id may have passed to another process while its files were read.
        let again = self::stat(&directory)?;
        (again.start_ticks == stat.start_ticks).then_some(process)
    }

    fn parents(&self, child: &Stat) -> Vec<Parent> {
        let mut parents: Vec<Parent> = Vec::new();
        let mut parent = child.parent;
        let mut start = child.start_ticks;
        while parent != 0 && parents.len() < MAX_PARENTS {
            let Some(stat) = stat(&self.root.join(parent.to_string())) else {
                break;
            };
            // An ancestor is never younger: this process reuses the id of a parent that has just died.
            let seen = parents.iter().any(|seen| seen.pid == parent);
            if stat.start_ticks > start || seen {
                break;
            }
            parents.push(Parent {
                pid: parent,
                comm: Text::from(stat.comm),
                start_time: Some(self.clock.timestamp(nanos(stat.start_ticks))),
            });
            parent = stat.parent;
            start = stat.start_ticks;
        }
        parents
    }
}

fn stat(directory: &Path) -> Option<Stat> {
    proc_text::stat(&read_proc(&directory.join("stat")).ok()?)
}

fn thread_name(directory: &Path, tid: Option<u32>) -> Option<Text> {
    let directory = directory.join("task").join(tid?.to_string());
    let text = read_proc(&directory.join("comm")).ok()?;
    Some(Text::from(proc_text::comm(&text)))
}

/// The arguments in the text of a command line.
#[must_use]
pub fn arguments(text: &[u8]) -> Vec<Text> {
    proc_text::cmdline(text).into_iter().map(Text::from).collect()
}

/// Reads only the text of the link: opening it would keep the namespace, and with it all its mounts.
fn namespace(directory: &Path, kind: &str) -> Option<u32> {
    let link = std::fs::read_link(directory.join("ns").join(kind)).ok()?;
    proc_text::namespace(link.as_os_str().as_bytes())
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// The start of a process as /proc has it: the kernel cuts it to clock ticks.
fn ticks(nanos: u64) -> u64 {
    nanos / (NANOS_PER_SECOND / ticks_per_second()).max(1)
}

fn nanos(ticks: u64) -> u64 {
    ticks.saturating_mul(NANOS_PER_SECOND / ticks_per_second())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use super::{ProcessReader, arguments, nanos};
    use crate::{
        identity::{BootClock, Containers},
        model::Text,
    };

    fn plant(proc: &Path, pid: u32, comm: &str, parent: u32, start: u64) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(directory.join("ns")).unwrap();
        fs::create_dir_all(directory.join(format!("task/{}", pid + 1))).unwrap();
        let stat =
            format!("{pid} ({comm}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 {start} 0 0 0 0 0\n");
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(
            directory.join("status"),
            "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n",
        )
        .unwrap();
        fs::write(directory.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(directory.join(format!("task/{}/comm", pid + 1)), "worker\n").unwrap();
        fs::write(directory.join("cgroup"), "0::/system.slice/agent.service\n").unwrap();
        fs::write(directory.join("cmdline"), "agent\0--token\0x\0").unwrap();
        std::os::unix::fs::symlink("mnt:[4026533012]", directory.join("ns/mnt")).unwrap();
        std::os::unix::fs::symlink("pid:[4026531836]", directory.join("ns/pid")).unwrap();
    }

    fn reader(proc: &Path) -> ProcessReader {
        let clock = BootClock {
            offset_nanos: 1_700_000_000_000_000_000,
        };
        let containers = Arc::new(Containers::new(proc, proc.join("host")));
        ProcessReader::new(clock, containers).with_root(proc)
    }

    #[test]
    fn everything_about_a_process() {
        let proc = tempfile::tempdir().unwrap();
        plant(proc.path(), 1, "systemd", 0, 1);
        plant(proc.path(), 50, "supervise", 1, 500);
        plant(proc.path(), 70, "agent", 50, 1000);
        let process = reader(proc.path())
            .read(70, Some(71), Some(nanos(1000) + 9_999_999))
            .unwrap();
        assert_eq!(
            (process.pid, process.tid, process.uid),
            (70, Some(71), Some(1000))
        );
        assert_eq!(process.comm, Text::from("worker"));
        assert_eq!(
            process.start_time.unwrap().to_string(),
            "2023-11-14T22:13:30.000000000Z"
        );
        let parents: Vec<_> = process.parents.iter().map(|parent| parent.pid).collect();
        assert_eq!(parents, [50, 1]);
        assert_eq!(process.parents[0].comm, Text::from("supervise"));
        assert_eq!(process.mount_namespace, Some(4_026_533_012));
        assert_eq!(process.pid_namespace, Some(4_026_531_836));
        assert_eq!(process.unit.as_deref(), Some("agent.service"));
        assert_eq!(
            (process.exe, process.cmdline, process.container),
            (None, None, None)
        );
    }

    #[test]
    fn memory_of_the_process_is_not_read() {
        let proc = tempfile::tempdir().unwrap();
        plant(proc.path(), 70, "agent", 0, 1000);
        let process = reader(proc.path()).read(70, None, None).unwrap();
        assert_eq!((process.comm, process.cmdline), (Text::from("agent"), None));
        assert_eq!(
            arguments(b"agent\0--token\0\0"),
            ["agent".into(), "--token".into(), "".into()]
        );
    }

    #[test]
    fn another_process_with_the_same_id_is_not_it() {
        let proc = tempfile::tempdir().unwrap();
        plant(proc.path(), 70, "agent", 0, 1000);
        let reader = reader(proc.path());
        assert_eq!(reader.read(70, None, Some(nanos(1001))), None);
        assert_eq!(reader.read(70, None, Some(nanos(1000) - 1)), None);
        assert_eq!(reader.read(71, None, None), None);
    }

    #[test]
    fn ancestors_end_at_the_first_that_cannot_be_one() {
        let proc = tempfile::tempdir().unwrap();
        plant(proc.path(), 60, "younger", 1, 2000);
        plant(proc.path(), 70, "agent", 60, 1000);
        assert!(
            reader(proc.path())
                .read(70, None, None)
                .unwrap()
                .parents
                .is_empty()
        );
        // A circle, and a chain without end.
        plant(proc.path(), 80, "a", 81, 5);
        plant(proc.path(), 81, "b", 80, 5);
        assert_eq!(reader(proc.path()).read(80, None, None).unwrap().parents.len(), 2);
        for pid in 100..130 {
            plant(proc.path(), pid, "chain", pid + 1, 5);
        }
        assert_eq!(
            reader(proc.path()).read(100, None, None).unwrap().parents.len(),
            16
        );
    }

    #[test]
    fn a_process_with_half_of_its_files_is_told_in_part() {
        let proc = tempfile::tempdir().unwrap();
        plant(proc.path(), 70, "agent", 0, 1000);
        for name in ["status", "cgroup", "comm", "ns/mnt"] {
            fs::remove_file(proc.path().join("70").join(name)).unwrap();
        }
        let process = reader(proc.path()).read(70, Some(9), None).unwrap();
        assert_eq!(process.comm, Text::from("agent"));
        assert_eq!(
            (process.uid, process.unit, process.mount_namespace),
            (None, None, None)
        );
    }

    #[test]
    fn this_process() {
        let clock = BootClock::sample();
        let reader = ProcessReader::new(clock, Arc::new(Containers::default()));
        let process = reader.read(std::process::id(), None, None).unwrap();
        assert_eq!(process.uid, Some(rustix::process::getuid().as_raw()));
        assert!(process.start_time.unwrap() <= clock.now());
        assert!(process.mount_namespace.is_some() && process.pid_namespace.is_some());
    }
}
