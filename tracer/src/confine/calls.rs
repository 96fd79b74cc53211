//! The system calls that ebusy makes once it is confined, each with its reason: all others end the process. A test
//! compares the list in docs/security.md with this table.

use std::ops::BitOr;

#[allow(
    clippy::wildcard_imports,
    reason = "nearly all of it is names of the kernel's interface"
)]
use libc::*;

#[cfg(target_arch = "aarch64")]
#[expect(
    non_upper_case_globals,
    reason = "as the C library's other numbers, where it is missing"
)]
const SYS_renameat: c_long = 38;

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct When(u8);

/// While `watch`, `record` and `doctor` get ready, once their programs are loaded.
pub(super) const START: When = When(1);
/// As long as ebusy looks at this kernel.
pub(super) const TRACE: When = When(2);
/// In `report` and `export`, once the capture is open.
pub(super) const REPORT: When = When(4);
/// If results go to the file of `-o`.
pub(super) const OUTPUT: When = When(8);

impl BitOr for When {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl When {
    /// True if they have anything in common.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Condition on an argument: its bits in `mask` equal `value`. Only the lower half is tested; it has all relevant bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    pub(super) argument: u8,
    pub(super) mask: u32,
    pub(super) value: u32,
}

/// A call, with its reason.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "names and reasons are for docs/security.md, which a test compares"
    )
)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) number: c_long,
    pub(super) when: When,
    /// At least one of these must hold; empty if the arguments do not matter.
    pub(super) only: &'static [Check],
    /// Reason for the arguments and the call, for docs/security.md.
    pub(super) why: &'static str,
}

macro_rules! call {
    ($number:ident, $when:expr, $why:literal $(, $only:expr)*) => {
        Call {
            name: stringify!($number).split_at("SYS_".len()).1,
            number: $number,
            when: $when,
            only: &[$($only),*],
            why: $why,
        }
    };
}

const fn bits(argument: u8, mask: c_int, value: c_int) -> Check {
    Check {
        argument,
        mask: mask as u32,
        value: value as u32,
    }
}

const fn equal(argument: u8, value: c_int) -> Check {
    bits(argument, -1, value)
}

/// No memory that could be executed.
const NO_CODE: Check = bits(2, PROT_EXEC, 0);
/// Opens nothing for writing.
const READ_ONLY: c_int = O_ACCMODE | O_CREAT | O_TRUNC;
/// Flags that make a thread, and never a process or a namespace.
const THREAD: c_int = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_FILES;
const NAMESPACES: c_int =
    CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

/// `bpf_cmd` of uapi/linux/bpf.h.
const LOOKUP: c_int = 1;
const UPDATE: c_int = 2;
const DELETE: c_int = 3;
const NEXT: c_int = 4;
const RUN: c_int = 10;
const INFO: c_int = 15;
const LOOKUP_BATCH: c_int = 24;

pub(super) const ALWAYS: When = When(TRACE.0 | REPORT.0);
const FILES: When = When(TRACE.0 | OUTPUT.0);

/// Those of every architecture.
pub(super) const CALLS: &[Call] = &[
    // Memory.
    call!(SYS_brk, ALWAYS, "memory"),
    call!(SYS_mmap, ALWAYS, "memory, none that can be executed", NO_CODE),
    call!(SYS_mprotect, ALWAYS, "memory, none that can be executed", NO_CODE),
    call!(SYS_mremap, ALWAYS, "memory"),
    call!(SYS_munmap, ALWAYS, "memory"),
    call!(SYS_madvise, ALWAYS, "memory"),
    // Descriptors that are open.
    call!(SYS_read, ALWAYS, "what is open"),
    call!(SYS_pread64, ALWAYS, "what is open"),
    call!(SYS_lseek, ALWAYS, "what is open"),
    call!(SYS_close, ALWAYS, "what is open"),
    call!(SYS_fstat, ALWAYS, "what is open"),
    call!(SYS_statx, ALWAYS, "sizes, and mounts of descriptors"),
    call!(SYS_write, ALWAYS, "results, messages, captures"),
    call!(SYS_writev, ALWAYS, "last words of the C library"),
    call!(SYS_ppoll, ALWAYS, "whether a reader takes what is written"),
    call!(
        SYS_fcntl,
        ALWAYS,
        "copies and flags of descriptors",
        equal(1, F_DUPFD_CLOEXEC),
        equal(1, F_GETFD),
        equal(1, F_SETFD),
        equal(1, F_GETFL),
        equal(1, F_SETFL)
    ),
    call!(
        SYS_ioctl,
        ALWAYS,
        "whether it is a terminal; a socket does not wait; a probe is off",
        equal(1, TCGETS as c_int),
        equal(1, TCGETS2 as c_int),
        equal(1, TIOCGWINSZ as c_int),
        equal(1, FIONBIO as c_int),
        equal(1, PERF_DISABLE)
    ),
    // Files.
    call!(
        SYS_openat,
        TRACE,
        "to read; a new segment; tracefs, where probes are removed by a line of text",
        bits(2, READ_ONLY, 0),
        bits(
            2,
            READ_ONLY | O_EXCL | O_NOFOLLOW,
            O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
        ),
        bits(2, READ_ONLY | O_APPEND, O_WRONLY | O_APPEND)
    ),
    call!(
        SYS_openat2,
        TRACE,
        "files of runtimes, below their directory; links, through the cache of names"
    ),
    call!(SYS_fstatfs, TRACE, "which file system that is"),
    call!(SYS_newfstatat, TRACE, "files of runtimes"),
    call!(SYS_readlinkat, TRACE, "namespaces in /proc, links of runtimes"),
    call!(
        SYS_getdents64,
        TRACE,
        "/proc, directories of runtimes, the folder of the capture"
    ),
    call!(
        SYS_fdatasync,
        FILES,
        "the capture, and the file of -o, to the disk"
    ),
    call!(SYS_fsync, TRACE, "the name of a segment, to the disk"),
    call!(SYS_ftruncate, TRACE, "a block that the disk had no room for"),
    call!(
        SYS_unlinkat,
        FILES,
        "segments that are too old; a file of -o that is not finished"
    ),
    call!(SYS_renameat, OUTPUT, "the file of -o gets its name"),
    call!(SYS_renameat2, OUTPUT, "the file of -o gets its name"),
    call!(
        SYS_kcmp,
        TRACE,
        "tier proc: which descriptors are copies of each other"
    ),
    // The loaded kernel programs.
    call!(
        SYS_bpf,
        TRACE,
        "entries of maps; the loaded reader is run; counters. No program is loaded any more",
        equal(0, LOOKUP),
        equal(0, UPDATE),
        equal(0, DELETE),
        equal(0, NEXT),
        equal(0, RUN),
        equal(0, INFO),
        equal(0, LOOKUP_BATCH)
    ),
    // Events and time.
    call!(SYS_epoll_create1, START, "the event loop"),
    call!(SYS_eventfd2, START, "the event loop"),
    call!(
        SYS_socketpair,
        START,
        "signals, to the event loop: local sockets only",
        equal(0, AF_UNIX)
    ),
    call!(SYS_epoll_ctl, TRACE, "the event loop"),
    call!(SYS_epoll_pwait, TRACE, "the event loop"),
    call!(SYS_sendto, TRACE, "signals, to the event loop"),
    call!(SYS_recvfrom, TRACE, "signals, to the event loop"),
    call!(SYS_clock_gettime, ALWAYS, "where the kernel lends no clock"),
    call!(SYS_gettimeofday, ALWAYS, "where the kernel lends no clock"),
    call!(SYS_clock_nanosleep, ALWAYS, "pauses"),
    call!(SYS_nanosleep, ALWAYS, "pauses"),
    call!(SYS_restart_syscall, ALWAYS, "pauses that a signal interrupted"),
    // Threads.
    call!(
        SYS_clone,
        TRACE,
        "a thread, never a process",
        bits(0, THREAD | NAMESPACES, THREAD)
    ),
    call!(
        SYS_clone3,
        TRACE,
        "answered with ENOSYS: its flags cannot be seen; clone is used instead"
    ),
    call!(SYS_rseq, TRACE, "a thread begins"),
    call!(SYS_set_robust_list, TRACE, "a thread begins"),
    call!(
        SYS_sched_getaffinity,
        ALWAYS,
        "a thread begins; how much memory is kept for threads"
    ),
    call!(SYS_sigaltstack, ALWAYS, "a thread begins or ends"),
    call!(
        SYS_prctl,
        TRACE,
        "the name of a thread; no_new_privs",
        equal(0, PR_SET_NAME),
        equal(0, PR_SET_NO_NEW_PRIVS)
    ),
    call!(SYS_futex, ALWAYS, "threads wait for each other"),
    call!(SYS_sched_yield, ALWAYS, "threads wait for each other"),
    call!(SYS_exit, ALWAYS, "a thread ends"),
    call!(SYS_exit_group, ALWAYS, "the end"),
    // Signals and processes.
    call!(SYS_rt_sigaction, ALWAYS, "what signals do"),
    call!(SYS_rt_sigprocmask, ALWAYS, "what signals do"),
    call!(SYS_rt_sigreturn, ALWAYS, "what signals do"),
    call!(SYS_getpid, ALWAYS, "who ebusy is"),
    call!(SYS_gettid, ALWAYS, "who ebusy is"),
    call!(SYS_geteuid, ALWAYS, "who ebusy is"),
    call!(SYS_tgkill, ALWAYS, "the end after a panic"),
    call!(SYS_pidfd_open, TRACE, "the command of watch"),
    call!(SYS_wait4, TRACE, "the command of watch, and what it left behind"),
    call!(SYS_waitid, TRACE, "the command of watch, and what it left behind"),
    call!(SYS_kill, TRACE, "a signal for the command of watch"),
    call!(SYS_uname, TRACE, "the name of the host, for a capture"),
    call!(SYS_getrandom, ALWAYS, "seeds of tables, salts"),
    // Calls that drop more rights.
    call!(SYS_umount2, START, "the self-test", equal(1, 0)),
    call!(SYS_capget, TRACE, "capabilities are given up"),
    call!(SYS_capset, TRACE, "capabilities are given up"),
    call!(SYS_seccomp, START, "the filter of after the start"),
    call!(SYS_landlock_create_ruleset, TRACE, "a thread gives up writing"),
    call!(SYS_landlock_add_rule, TRACE, "a thread gives up writing"),
    call!(SYS_landlock_restrict_self, TRACE, "a thread gives up writing"),
];

/// Those that only x86-64 has: other architectures have one of the above instead.
#[cfg(target_arch = "x86_64")]
pub(super) const OLD: &[Call] = &[
    call!(SYS_open, TRACE, "to read", bits(1, READ_ONLY, 0)),
    call!(SYS_readlink, TRACE, "namespaces in /proc, links of runtimes"),
    call!(SYS_poll, ALWAYS, "whether a reader takes what is written"),
    call!(SYS_epoll_wait, TRACE, "the event loop"),
    call!(SYS_rename, OUTPUT, "the file of -o gets its name"),
    call!(SYS_rmdir, TRACE, "a folder of evidence that is not kept"),
    call!(SYS_time, ALWAYS, "where the kernel lends no clock"),
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OLD: &[Call] = &[];

/// `PERF_EVENT_IOC_DISABLE`.
const PERF_DISABLE: c_int = 0x2401;
