//! Processes of the tests that outlive them: one that is stuck in a file system would hold up whoever looks at it next.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::say;

/// How long the processes of a test may take to follow it.
const GRACE: Duration = Duration::from_secs(2);

/// A process that runs one of the programs.
#[derive(Debug, Eq, PartialEq)]
struct Leftover {
    pid: Pid,
    program: PathBuf,
}

/// Ends what runs a program of this folder or this program, and says so.
pub(crate) fn end(folder: &Path, ebusy: &Path) {
    let ours = |program: &Path| program == ebusy || program.parent() == Some(folder);
    let deadline = Instant::now() + GRACE;
    let mut left = running(Path::new("/proc"), ours);
    while !left.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
        left = running(Path::new("/proc"), ours);
    }
    for Leftover { pid, program } in left {
        let number = pid.as_raw_nonzero();
        // As it was: one that is killed runs, to end.
        let state = state(pid);
        let result = match kill_process(pid, Signal::KILL) {
            Ok(()) => "killed".to_owned(),
            Err(error) => format!("kill: {error}"),
        };
        say(&format!(
            "left behind: {} {number} ({state}): {result}",
            program.display()
        ));
    }
}

fn running(proc: &Path, ours: impl Fn(&Path) -> bool) -> Vec<Leftover> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let processes = entries.flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // A kernel thread has none, and one that ended has none any more.
        let program = fs::read_link(entry.path().join("exe")).ok()?;
        ours(&program).then_some(Leftover { pid, program })
    });
    processes.collect()
}

/// Letter of `proc_pid_status(5)`, and what it waits for in the kernel.
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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use super::*;

    #[test]
    fn finds_those_that_run_a_program_of_ours() {
        let proc = tempfile::tempdir().unwrap();
        for (name, program) in [
            ("12", "/t/debug/hold-fd"),
            ("13", "/usr/bin/sh"),
            ("self", "/t/debug/hold-fd"),
            ("0", "/t/debug/hold-fd"),
        ] {
            fs::create_dir(proc.path().join(name)).unwrap();
            symlink(program, proc.path().join(name).join("exe")).unwrap();
        }
        fs::create_dir(proc.path().join("14")).unwrap();
        let found = running(proc.path(), |program| {
            program.parent() == Some(Path::new("/t/debug"))
        });
        let only = Leftover {
            pid: Pid::from_raw(12).unwrap(),
            program: "/t/debug/hold-fd".into(),
        };
        assert_eq!(found, [only]);
    }
}
