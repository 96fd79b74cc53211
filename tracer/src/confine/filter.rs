//! The filter of system calls (seccomp(2)), made from the table.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, apply_filter_all_threads,
};

use super::calls::{CALLS, Call, Check, OLD, When};

/// clone3 is answered already.
static NO_CLONE3: AtomicBool = AtomicBool::new(false);

/// The threads that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// All threads, and those that they start.
    All,
    /// This thread.
    One,
}

/// The first use of a clock or of the page size reads the kernel's start-up data of this process, by calls that are
/// made once.
fn ask_once() {
    let _ = (
        rustix::time::clock_gettime(rustix::time::ClockId::Monotonic),
        rustix::param::clock_ticks_per_second(),
        rustix::param::page_size(),
    );
}

/// From now on any call that is not allowed at `when` ends the process.
pub(super) fn install(when: When, threads: Threads) -> Result<()> {
    ask_once();
    let filters = if NO_CLONE3.load(Ordering::Relaxed) && threads == Threads::All {
        vec![allow(when)?]
    } else {
        vec![without_clone3()?, allow(when)?]
    };
    for filter in filters {
        match threads {
            Threads::All => apply_filter_all_threads(&filter)?,
            Threads::One => apply_filter(&filter)?,
        }
    }
    NO_CLONE3.fetch_or(threads == Threads::All, Ordering::Relaxed);
    Ok(())
}

/// All calls of the table, on this architecture.
pub(super) fn calls() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain(OLD)
}

/// The filter that allows exactly these calls.
pub(super) fn allow(when: When) -> Result<BpfProgram> {
    let allowed = calls().filter(|call| call.when.meets(when));
    let rules = allowed
        .map(|call| {
            let rules = call.only.iter().map(rule).collect::<Result<_>>()?;
            Ok((call.number, rules))
        })
        .collect::<Result<_>>()?;
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// The C library makes threads by clone, whose flags a filter can see, where clone3 does not exist.
fn without_clone3() -> Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    compile(rules, SeccompAction::Allow, missing)
}

fn rule(check: &Check) -> Result<SeccompRule> {
    let mask = SeccompCmpOp::MaskedEq(check.mask.into());
    let condition = SeccompCondition::new(check.argument, SeccompCmpArgLen::Dword, mask, check.value.into())?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, otherwise, action, here)?;
    BpfProgram::try_from(filter).context("compiling the filter of system calls")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ptr};

    use libc::{c_int, c_long};

    use super::{allow, calls, without_clone3};
    use crate::confine::calls::{ALWAYS, CALLS, OLD, OUTPUT, REPORT, START, TRACE, When};

    /// The end of a process.
    #[derive(Debug, PartialEq, Eq)]
    enum End {
        Exit(c_int),
        Signal(c_int),
    }

    /// Runs this call in a child under the filter; the child exits with the call's error.
    fn under(when: When, call: impl Fn() -> c_long) -> End {
        let filters = [
            without_clone3().unwrap(),
            allow(when | START).unwrap(),
            allow(when).unwrap(),
        ];
        // SAFETY: the child makes system calls, and ends without running anything of what was copied.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                if filters
                    .iter()
                    .any(|filter| seccompiler::apply_filter(filter).is_err())
                {
                    libc::_exit(99);
                }
                let result = call();
                let errno = if result < 0 { *libc::__errno_location() } else { 0 };
                libc::_exit(errno);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            if libc::WIFSIGNALED(status) {
                End::Signal(libc::WTERMSIG(status))
            } else {
                End::Exit(libc::WEXITSTATUS(status))
            }
        }
    }

    fn syscall(number: c_long, first: c_long, second: c_long, third: c_long) -> impl Fn() -> c_long {
        // SAFETY: the arguments are numbers, or pointers to what lives for ever.
        move || unsafe { libc::syscall(number, first, second, third, 0, 0, 0) }
    }

    fn path(path: &'static std::ffi::CStr) -> c_long {
        path.as_ptr() as c_long
    }

    #[test]
    fn a_call_that_is_not_in_the_table_ends_the_process() {
        let killed = End::Signal(libc::SIGSYS);
        let root = path(c"/");
        for (name, number, first, second) in [
            ("execve", libc::SYS_execve, path(c"/bin/true"), 0),
            ("ptrace", libc::SYS_ptrace, 0, 0),
            ("mount", libc::SYS_mount, root, root),
            ("setns", libc::SYS_setns, 0, 0),
            ("unshare", libc::SYS_unshare, 0, 0),
            (
                "socket",
                libc::SYS_socket,
                libc::AF_INET.into(),
                libc::SOCK_STREAM.into(),
            ),
            ("perf_event_open", libc::SYS_perf_event_open, 0, 0),
            ("process_vm_readv", libc::SYS_process_vm_readv, 1, 0),
            ("umount2", libc::SYS_umount2, root, 0),
            ("seccomp", libc::SYS_seccomp, 0, 0),
            ("init_module", libc::SYS_init_module, 0, 0),
        ] {
            for when in [TRACE, TRACE | OUTPUT, REPORT, REPORT | OUTPUT] {
                assert_eq!(under(when, syscall(number, first, second, 0)), killed, "{name}");
            }
        }
    }

    #[test]
    fn report_opens_nothing() {
        let killed = End::Signal(libc::SIGSYS);
        let here: c_long = libc::AT_FDCWD.into();
        for when in [REPORT, REPORT | OUTPUT] {
            for number in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_newfstatat] {
                assert_eq!(under(when, syscall(number, here, path(c"/"), 0)), killed);
            }
            assert_eq!(under(when, syscall(libc::SYS_bpf, 1, 0, 0)), killed);
            assert_eq!(under(when, syscall(libc::SYS_kill, 0, 0, 0)), killed);
        }
    }

    #[test]
    fn arguments_matter() {
        let killed = End::Signal(libc::SIGSYS);
        let here: c_long = libc::AT_FDCWD.into();
        let null = path(c"/dev/null");
        let open = |flags: c_int| under(TRACE, syscall(libc::SYS_openat, here, null, flags.into()));
        assert_eq!(
            open(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK),
            End::Exit(0)
        );
        assert_eq!(open(libc::O_PATH | libc::O_NOFOLLOW), End::Exit(0));
        assert_eq!(open(libc::O_WRONLY | libc::O_APPEND), End::Exit(0));
        let new = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        assert_eq!(open(new), End::Exit(libc::EEXIST));
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR | libc::O_APPEND,
            libc::O_WRONLY | libc::O_CREAT,
            libc::O_RDONLY | libc::O_TRUNC,
            libc::O_RDWR | libc::O_TMPFILE,
            new & !libc::O_NOFOLLOW,
        ] {
            assert_eq!(open(flags), killed, "{flags:#o}");
        }
        let bpf = |command| under(TRACE, syscall(libc::SYS_bpf, command, 0, 0));
        assert!(matches!(bpf(1), End::Exit(_)));
        for load in [0, 5, 18, 28] {
            assert_eq!(bpf(load), killed, "bpf command {load}");
        }
        let map = |protection: c_int| {
            // SAFETY: memory of nobody else.
            under(TRACE, move || unsafe {
                let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::mmap(ptr::null_mut(), 4096, protection, private, -1, 0) as c_long
            })
        };
        assert_eq!(map(libc::PROT_READ | libc::PROT_WRITE), End::Exit(0));
        assert_eq!(map(libc::PROT_READ | libc::PROT_EXEC), killed);
        let clone3 = under(TRACE, syscall(libc::SYS_clone3, 0, 0, 0));
        assert_eq!(clone3, End::Exit(libc::ENOSYS));
        let fork = under(TRACE, syscall(libc::SYS_clone, libc::SIGCHLD.into(), 0, 0));
        assert_eq!(fork, killed);
        assert_eq!(
            under(
                TRACE,
                syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE.into(), 1, 0)
            ),
            killed
        );
    }

    #[test]
    fn the_table_names_each_call_once_and_says_why() {
        let mut seen = HashSet::new();
        for call in calls() {
            assert!(seen.insert(call.number), "{} twice", call.name);
            assert!(!call.why.is_empty() && call.when.meets(ALWAYS | START | OUTPUT));
        }
    }

    /// The table of docs/security.md.
    fn listed() -> String {
        let phases = [
            (START, "start"),
            (TRACE, "look"),
            (REPORT, "read"),
            (OUTPUT, "-o"),
        ];
        let mut lines = Vec::new();
        for (calls, note) in [(CALLS, ""), (OLD, " (x86-64)")] {
            for call in calls {
                let when = phases.iter().filter(|(phase, _)| call.when.meets(*phase));
                let when: Vec<_> = when.map(|(_, name)| *name).collect();
                lines.push(format!(
                    "| `{}`{note} | {} | {} |",
                    call.name,
                    when.join(", "),
                    call.why
                ));
            }
        }
        lines.join("\n")
    }

    #[test]
    fn the_page_on_security_lists_them() {
        let page = include_str!("../../../docs/security.md");
        let table: Vec<&str> = page
            .lines()
            .skip_while(|line| *line != "| Call | When | Why |")
            .skip(2)
            .collect();
        let table: Vec<&str> = table
            .into_iter()
            .take_while(|line| line.starts_with('|'))
            .collect();
        let here = |line: &&str| cfg!(target_arch = "x86_64") || !line.contains("(x86-64)");
        let table: Vec<&str> = table.into_iter().filter(here).collect();
        assert_eq!(
            table.join("\n"),
            listed(),
            "docs/security.md is to have this table:\n{}",
            listed()
        );
    }

    /// Kernels take 4,096 instructions.
    #[test]
    fn a_filter_is_short() {
        for when in [TRACE, TRACE | START | OUTPUT, REPORT] {
            let length = allow(when).unwrap().len();
            assert!(length < 1000, "{length}");
        }
    }
}
