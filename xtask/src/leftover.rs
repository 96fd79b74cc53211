//! Leftovers of tests: processes, mounts, loop devices and folders. They would delay or mislead the next tests.
//!
//! Two marks identify them: the run's own folder for temporary files, and a variable in the environment of its
//! processes. Nothing of another run on this machine has them.

use std::{
    env, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{say, vm, workspace::Workspace};

/// How long the processes of a test may take to follow it.
const GRACE: Duration = Duration::from_secs(2);

/// The variable in the environment of a run's processes.
const MARK: &str = "EBUSY_RUN";

/// The temporary folders of a run.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    ebusy: PathBuf,
    holders: PathBuf,
    /// For all temporary files.
    folder: PathBuf,
    mark: String,
    /// The folder of the machines' images.
    machines: PathBuf,
}

/// A process of a test.
#[derive(Debug, Eq, PartialEq)]
struct Leftover {
    pid: Pid,
    program: PathBuf,
}

impl Scene {
    /// For tests that run these programs.
    pub(crate) fn new(workspace: &Workspace, ebusy: &Path, holders: &Path) -> Result<Self> {
        // Short: sockets are in it, whose names have 108 bytes at most.
        let folder = env::temp_dir().join(format!("ebusy-{}", process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Self {
            ebusy: ebusy.to_path_buf(),
            holders: holders.to_path_buf(),
            mark: format!("{MARK}={}", process::id()),
            folder,
            machines: workspace.target.join("vm"),
        })
    }

    /// Marks this command and its children.
    pub(crate) fn mark(&self, command: &mut Command) {
        command
            .env("TMPDIR", &self.folder)
            .env(MARK, process::id().to_string());
    }

    /// Ends and removes the leftovers of a suite, and names them.
    pub(crate) fn clear(&self) {
        self.end_processes();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // The last comes first: it may be on another.
        for mount in mounts_below(&mounts, &self.folder).into_iter().rev() {
            let result = unmount(&mount, UnmountFlags::DETACH);
            told("mount", &mount.display(), result.err());
        }
        for (device, file) in loops_below(Path::new("/sys/block"), &self.folder) {
            let result = Command::new("losetup").arg("--detach").arg(&device).status();
            let problem = match result {
                Ok(status) if status.success() => None,
                Ok(status) => Some(format!("losetup --detach: {status}")),
                Err(err) => Some(format!("starting losetup: {err}")),
            };
            told(
                "loop device",
                &format!("{} of {}", device.display(), file.display()),
                problem,
            );
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let result = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            told("folder", &path.display(), result.err());
        }
    }

    /// Removes the folder, and the images and half-written states of machines that an interrupt ended.
    pub(crate) fn remove(&self) {
        self.clear();
        let _ = fs::remove_dir(&self.folder);
        vm::remove_temporary(&self.machines, |owner| owner == process::id());
    }

    fn end_processes(&self) {
        let proc = Path::new("/proc");
        let deadline = Instant::now() + GRACE;
        let mut left = self.running(proc);
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            left = self.running(proc);
        }
        for Leftover { pid, program } in left {
            // Read the state first: a killed process runs again, to end.
            let what = format!("{} {} ({})", program.display(), pid.as_raw_nonzero(), state(pid));
            told("process", &what, kill_process(pid, Signal::KILL).err());
        }
    }

    fn running(&self, proc: &Path) -> Vec<Leftover> {
        let Ok(entries) = fs::read_dir(proc) else {
            return Vec::new();
        };
        let own = i32::try_from(process::id()).unwrap_or(0);
        let processes = entries.flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let pid = Pid::from_raw(pid).filter(|_| pid != own)?;
            // A kernel thread has none, nor has a process that has ended.
            let program = fs::read_link(entry.path().join("exe")).ok()?;
            let ours = program == self.ebusy
                || program.parent() == Some(&self.holders)
                || fs::read(entry.path().join("environ")).is_ok_and(|environment| {
                    environment
                        .split(|byte| *byte == 0)
                        .any(|variable| variable == self.mark.as_bytes())
                });
            ours.then_some(Leftover { pid, program })
        });
        processes.collect()
    }
}

fn told<E: std::fmt::Display>(kind: &str, what: &dyn std::fmt::Display, err: Option<E>) {
    let result = err.map_or_else(|| "removed".to_owned(), |err| err.to_string());
    say(&format!("left behind by a test: {kind} {what}: {result}"));
}

/// Letter of `proc_pid_status(5)`, and the kernel function that it waits in.
fn state(pid: Pid) -> String {
    let of = |name: &str| {
        fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let status = of("status");
    let letter = status.lines().find_map(|line| line.strip_prefix("State:"));
    format!("{}, {}", letter.unwrap_or("gone").trim(), of("wchan"))
}

fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect()
}

fn loops_below(block: &Path, folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let devices = fs::read_dir(block).into_iter().flatten().flatten();
    let used = devices.filter_map(|entry| {
        let file = fs::read(entry.path().join("loop/backing_file")).ok()?;
        let file = PathBuf::from(std::ffi::OsStr::from_bytes(file.trim_ascii_end()));
        let device = Path::new("/dev").join(entry.file_name());
        file.starts_with(folder).then_some((device, file))
    });
    used.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn processes_by_program_and_by_mark() {
        let proc = tempfile::tempdir().unwrap();
        for (name, program, environment) in [
            ("12", "/t/debug/hold-fd", "A=1\0"),
            ("13", "/usr/bin/sh", "A=1\0EBUSY_RUN=77\0"),
            ("14", "/usr/bin/sh", "EBUSY_RUN=778\0"),
            ("self", "/t/debug/hold-fd", ""),
            ("0", "/t/debug/hold-fd", ""),
        ] {
            let directory = proc.path().join(name);
            fs::create_dir(&directory).unwrap();
            symlink(program, directory.join("exe")).unwrap();
            fs::write(directory.join("environ"), environment).unwrap();
        }
        fs::create_dir(proc.path().join("15")).unwrap();
        let scene = Scene {
            ebusy: "/t/ci/ebusy".into(),
            holders: "/t/debug".into(),
            folder: "/tmp/ebusy-77".into(),
            mark: "EBUSY_RUN=77".to_owned(),
            machines: "/t/vm".into(),
        };
        let mut found: Vec<i32> = scene
            .running(proc.path())
            .iter()
            .map(|left| left.pid.as_raw_nonzero().get())
            .collect();
        found.sort_unstable();
        assert_eq!(found, [12, 13]);
    }

    #[test]
    fn mounts_and_loop_devices() {
        let folder = Path::new("/tmp/ebusy-77");
        let mountinfo = "25 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                         90 25 0:40 / /tmp/ebusy-77/a rw - tmpfs none rw\n\
                         91 25 0:41 / /tmp/ebusy-778/a rw - tmpfs none rw\n";
        assert_eq!(mounts_below(mountinfo, folder), [Path::new("/tmp/ebusy-77/a")]);
        let block = tempfile::tempdir().unwrap();
        for (name, file) in [
            ("loop0", "/tmp/ebusy-77/image (deleted)\n"),
            ("loop1", "/other\n"),
        ] {
            fs::create_dir_all(block.path().join(name).join("loop")).unwrap();
            fs::write(block.path().join(name).join("loop/backing_file"), file).unwrap();
        }
        let found = loops_below(block.path(), folder);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Path::new("/dev/loop0"));
    }
}
