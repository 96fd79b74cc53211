//! The command of `watch -- CMD` sees the environment that it would see without ebusy: the test compares every
//! inherited property.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy,
    harness::{self, Verdict},
    holder, pause,
};
use rustix::process::Signal;

/// A descriptor that a shell does not use for itself.
const DESCRIPTOR: i32 = 9;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("all_that_is_inherited", all_that_is_inherited),
        harness::test("signals_and_descriptors", signals_and_descriptors),
        harness::test("sigpipe_ends_a_writer", sigpipe_ends_a_writer),
        harness::test(
            "its_status_where_sigchld_is_ignored",
            its_status_where_sigchld_is_ignored,
        ),
        harness::test("it_alone_holds_what_it_inherits", it_alone_holds_what_it_inherits),
        harness::test("it_ends_with_its_parent", it_ends_with_its_parent),
    ])
}

/// `CMD`, or `ebusy watch -- CMD`, with its output in a file.
fn through(ebusy: bool, program: &OsStr, arguments: &[&str], output: &Path) -> Result<Command> {
    let mut command = if ebusy {
        let mut command = ebusy::command("watch")?;
        command.args(["--no-capture", "--"]).arg(program);
        command.stderr(File::create(output.with_extension("err"))?);
        command
    } else {
        let mut command = Command::new(program);
        command.stderr(File::create(output.with_extension("err"))?);
        command
    };
    command
        .args(arguments)
        .stdin(File::open("/dev/zero")?)
        .stdout(File::create(output)?);
    Ok(command)
}

fn wait(command: &mut Command, what: &str) -> Result<u32> {
    let mut child = command.spawn().context("starting it")?;
    let pid = child.id();
    let status = pause::until(holder::PATIENCE, || Ok(child.try_wait()?)).with_context(|| what.to_owned())?;
    ensure!(status.success(), "{what}: {status}");
    Ok(pid)
}

/// An unusual value for every property.
fn unusual() -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    let limit = |resource, value| {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: the structure lives until the call has returned.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })
    };
    // SAFETY: system calls with numbers, between fork and exec.
    unsafe {
        check(libc::setsid())?;
        libc::umask(0o027);
        check(libc::setpriority(libc::PRIO_PROCESS, 0, 3))?;
        check(libc::prctl(libc::PR_SET_TIMERSLACK, 77_000, 0, 0, 0))?;
        check(libc::prctl(
            libc::PR_CAPBSET_DROP,
            35, /* CAP_WAKE_ALARM */
            0,
            0,
            0,
        ))?;
        check(libc::prctl(
            libc::PR_SET_SECUREBITS,
            1 << 2, /* SECBIT_NO_SETUID_FIXUP */
            0,
            0,
            0,
        ))?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR2, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, libc::SIGWINCH);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const blocked,
            std::ptr::null_mut(),
        ))?;
    }
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_NOFILE, 333)?;
    limit(libc::RLIMIT_FSIZE, 1 << 30)
}

fn all_that_is_inherited() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let program = holder::program("inherited")?;
    let seen = |ebusy: bool| -> Result<BTreeMap<String, String>> {
        let output = folder.path().join("out");
        let mut command = through(ebusy, program.as_os_str(), &[], &output)?;
        command.current_dir(folder.path()).env("UNUSUAL", "\u{1}x\n");
        // SAFETY: only system calls.
        unsafe { command.pre_exec(unusual) };
        let pid = wait(&mut command, "the command")?.to_string();
        let text = fs::read_to_string(&output)?;
        let lines = text.lines().map(|line| {
            let (name, value) = line.split_once('=').context("NAME=VALUE")?;
            let started = (name == "process group" || name == "session") && value == pid;
            let value = if started { "who was started" } else { value };
            Ok((name.to_owned(), value.to_owned()))
        });
        lines.collect()
    };
    let (alone, through) = (seen(false)?, seen(true)?);
    ensure!(alone.len() > 50, "only {} values: {alone:?}", alone.len());
    for (name, expected) in [
        ("session", "who was started"),
        ("nice", "3"),
        ("timer slack", "77000"),
        ("NoNewPrivs", "1"),
        ("secure bits", "4"),
        ("Umask", "0027"),
        ("SigBlk", "0000000008000000"),
        ("parent death signal", "Some(12)"),
    ] {
        let value = alone.get(name).map(String::as_str);
        ensure!(value == Some(expected), "{name}: {value:?}");
    }
    let different: Vec<_> = alone
        .iter()
        .filter(|(name, value)| through.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}: {value:?}, through ebusy {:?}", through.get(name)))
        .collect();
    ensure!(
        different.is_empty() && alone.len() == through.len(),
        "{different:#?}"
    );
    Ok(Verdict::Passed)
}

/// Properties that Rust's standard library changes, as a shell sees them.
fn signals_and_descriptors() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let file = File::create(folder.path().join("file"))?;
    let script = "grep ^Sig[IC] /proc/$$/status; \
                  for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do echo $n $(readlink /proc/$$/fd/$n); done";
    let seen = |ebusy: bool, ignored: &'static [libc::c_int], closed: Option<i32>| -> Result<String> {
        let output = folder.path().join("out");
        let mut command = through(ebusy, OsStr::new("sh"), &["-c", script], &output)?;
        let file = file.as_raw_fd();
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(move || {
                for signal in [libc::SIGPIPE, libc::SIGUSR2, libc::SIGTTOU, libc::SIGXFSZ] {
                    let action = if ignored.contains(&signal) {
                        libc::SIG_IGN
                    } else {
                        libc::SIG_DFL
                    };
                    libc::signal(signal, action);
                }
                libc::dup2(file, DESCRIPTOR);
                closed.map(|closed| libc::close(closed));
                Ok(())
            });
        }
        wait(&mut command, "the shell")?;
        // The shell has one for what it reads of readlink.
        let seen = fs::read_to_string(&output)?;
        let lines = seen
            .lines()
            .map(|line| line.split_once(" pipe:").map_or(line, |(number, _)| number));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    for ignored in [
        &[][..],
        &[libc::SIGPIPE],
        &[libc::SIGUSR2, libc::SIGTTOU, libc::SIGXFSZ],
    ] {
        for closed in [None, Some(0), Some(2)] {
            let (alone, through) = (seen(false, ignored, closed)?, seen(true, ignored, closed)?);
            ensure!(alone.contains("9 /") && alone.lines().count() == 15, "{alone}");
            ensure!(
                alone == through,
                "ignored {ignored:?}, closed {closed:?}: {alone}\nthrough ebusy: {through}"
            );
        }
    }
    Ok(Verdict::Passed)
}

fn sigpipe_ends_a_writer() -> Result<Verdict> {
    let finished = ebusy::run(
        ebusy::command("watch")?
            .args(["--no-capture", "--", "sh", "-c"])
            .arg("while :; do echo x; done | head -1"),
    )?;
    finished.expect_code(0)?;
    ensure!(
        finished.stdout == b"x\n",
        "{:?}",
        String::from_utf8_lossy(&finished.stdout)
    );
    Ok(Verdict::Passed)
}

fn its_status_where_sigchld_is_ignored() -> Result<Verdict> {
    let mut command = ebusy::command("watch")?;
    command.args(["--no-capture", "--", "sh", "-c", "exit 7"]);
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            Ok(())
        });
    }
    ebusy::run(&mut command)?.expect_code(7)?;
    Ok(Verdict::Passed)
}

/// Descriptors opened for the command end with it: a pipe reaches its end, and ebusy does not hold a mount.
fn it_alone_holds_what_it_inherits() -> Result<Verdict> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (input, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = ebusy::command("watch")?;
    command.args([
        "--no-capture",
        "--",
        "sh",
        "-c",
        "exec 9>&- <&-; echo ready; exec sleep 1000",
    ]);
    let raw = writer.as_raw_fd();
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(move || {
            libc::dup2(raw, DESCRIPTOR);
            Ok(())
        });
    }
    let running = ebusy::Running::reading(&mut command, input)?;
    drop((writer, command));
    let mut rest = Vec::new();
    // The last writer is gone, and so is the last reader.
    let begun = Instant::now();
    io::Read::read_to_end(&mut File::from(reader), &mut rest)?;
    ensure!(
        begun.elapsed() < Duration::from_secs(20),
        "the pipe had no end for long"
    );
    let broken = rustix::io::write(&output, b"x");
    running.signal(Signal::INT)?;
    running.wait()?;
    ensure!(
        broken == Err(rustix::io::Errno::PIPE),
        "stdin is still open somewhere: {broken:?}"
    );
    Ok(Verdict::Passed)
}

/// If ebusy ends with its parent, so does its command.
fn it_ends_with_its_parent() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("out");
    let mut command = through(
        true,
        OsStr::new("sh"),
        &["-c", "echo $$; exec sleep 1000"],
        &output,
    )?;
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let pid = pause::until(holder::PATIENCE, || {
        Ok(fs::read_to_string(&output)?.trim().parse::<i32>().ok())
    })?;
    child.kill()?;
    ensure!(child.wait()?.signal() == Some(libc::SIGKILL), "it was not killed");
    pause::until(holder::PATIENCE, || {
        let gone = fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        Ok(gone.then_some(()))
    })
    .context("the command lives on")?;
    Ok(Verdict::Passed)
}
