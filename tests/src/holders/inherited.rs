//! Prints everything that it inherited from its parent, a line each: `NAME=VALUE`, except properties that a Rust
//! program changes before its `main` (SIGPIPE, closed descriptors).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

/// Files of `/proc/self` that do not depend on its identity, its run time or its memory.
const FILES: &[&str] = &[
    "cgroup",
    "coredump_filter",
    "environ",
    "limits",
    "loginuid",
    "oom_score_adj",
    "personality",
    "sessionid",
    "timens_offsets",
    "timerslack_ns",
    "uid_map",
];
const LINKS: &[&str] = &[
    "cwd",
    "root",
    "ns/cgroup",
    "ns/ipc",
    "ns/mnt",
    "ns/net",
    "ns/pid",
    "ns/pid_for_children",
    "ns/time",
    "ns/time_for_children",
    "ns/user",
    "ns/uts",
];
/// Fields of `/proc/self/stat`, by their number (`proc_pid_stat(5)`).
const STAT: &[(&str, usize)] = &[
    ("process group", 5),
    ("session", 6),
    ("terminal", 7),
    ("priority", 18),
    ("nice", 19),
    ("real-time priority", 40),
    ("policy", 41),
];
const STATUS: &[&str] = &[
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
    "Mems_allowed",
    "SigBlk",
];
const PRCTL: &[(&str, libc::c_int)] = &[
    ("dumpable", libc::PR_GET_DUMPABLE),
    ("keep capabilities", libc::PR_GET_KEEPCAPS),
    ("machine check", libc::PR_MCE_KILL_GET),
    ("secure bits", libc::PR_GET_SECUREBITS),
    ("no huge pages", libc::PR_GET_THP_DISABLE),
    ("timer slack", libc::PR_GET_TIMERSLACK),
];
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

pub(super) fn main() -> Result<()> {
    let own = Path::new("/proc/self");
    for name in FILES {
        // Not every kernel has each.
        let text = fs::read(own.join(name)).unwrap_or_default();
        println!("{name}={}", text.escape_ascii());
    }
    for name in LINKS {
        let target = fs::read_link(own.join(name)).unwrap_or_default();
        println!("{name}={}", target.display());
    }
    let stat = fs::read_to_string(own.join("stat"))?;
    let (_, stat) = stat.rsplit_once(") ").context("no name in stat")?;
    let stat: Vec<&str> = stat.split(' ').collect();
    for (name, number) in STAT {
        println!("{name}={}", stat.get(number - 3).context("a short stat")?);
    }
    for line in fs::read_to_string(own.join("status"))?.lines() {
        let (name, value) = line.split_once(':').context("a line of status")?;
        if STATUS.contains(&name) {
            println!("{name}={}", value.trim());
        }
    }
    for (name, option) in PRCTL {
        // SAFETY: these ask for a number, and take no argument.
        let value = unsafe { libc::prctl(*option, 0, 0, 0, 0) };
        println!("{name}={value}");
    }
    let death = rustix::process::parent_process_death_signal()?;
    println!("parent death signal={:?}", death.map(Signal::as_raw));
    // SAFETY: asks for a number.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    println!("i/o priority={priority}");
    let affinity = rustix::thread::sched_getaffinity(None)?;
    println!("processors={affinity:?}");
    Ok(())
}
