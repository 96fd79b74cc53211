//! Nothing waits for somebody else: processes whose memory never comes, readers that do not read, file systems that do not
//! answer. Where ebusy is stuck all the same, it says where, and ends.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Running, Watch},
    expect::{Expectation, Expected},
    fuse::Connection,
    harness::{self, Verdict},
    holder::{Helper, Holding, PATIENCE, program},
    namespace::Namespace,
    pause,
    report::{Holder, Who},
    schema,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) fn main() -> ExitCode {
    // Most of the time they wait for a watchdog.
    harness::main_side_by_side(
        vec![
            harness::test("waiting_memory_path_of_an_umount", path_of_an_umount),
            harness::test(
                "waiting_memory_lock_of_an_address_space",
                lock_of_an_address_space,
            ),
            harness::test("waiting_memory_lock_of_an_epoll", lock_of_an_epoll),
            harness::test("waiting_memory_command_lines", command_lines_of_others),
            harness::test("waiting_output_that_does_not_answer", output_that_does_not_answer),
            harness::test("waiting_reader_that_pauses", reader_that_pauses),
            harness::test("waiting_second_signal", second_signal),
        ],
        7,
    )
}

/// A process whose memory never comes.
struct Waiter {
    helper: Helper,
    pid: u32,
}

impl Waiter {
    fn start(mode: &str, scratch: &Scratch) -> Result<Self> {
        let file = scratch.join("held");
        fs::write(&file, "x")?;
        let arguments = [Path::new(mode), &file];
        let helper = Helper::start(&program("waiter")?, &arguments)?;
        let pid = helper.line()?.parse().context("a process id")?;
        Ok(Self { helper, pid })
    }

    /// Somebody who does wait for it, by a file of /proc.
    fn reader(&self, file: &str) -> Result<Child> {
        let reader = Command::new("cat")
            .arg(format!("/proc/{}/{file}", self.pid))
            .stdout(Stdio::null())
            .spawn()?;
        pause::until(PATIENCE, || {
            let state = fs::read_to_string(format!("/proc/{}/stat", reader.id()))?;
            Ok(state.contains(") D ").then_some(()))
        })
        .with_context(|| format!("/proc/PID/{file} does not wait"))?;
        Ok(reader)
    }

    /// Lets it go: now the other reader ends too, which has waited all the time.
    fn finish(self, mut reader: Option<Child>) -> Result<()> {
        if let Some(reader) = &mut reader {
            ensure!(
                reader.try_wait()?.is_none(),
                "nobody waits: this test shows nothing"
            );
        }
        self.helper.finish()?;
        if let Some(reader) = &mut reader {
            reader.wait()?;
        }
        Ok(())
    }
}

/// `who` with these options, of one mount.
fn who(options: &[&str], path: &Path) -> Result<Who> {
    // With the tier of this test run, or that of the options.
    let mut command = if options.contains(&"--probe") {
        let mut command = Command::new(ebusy::binary()?);
        command.arg("who");
        command
    } else {
        ebusy::command("who")?
    };
    let finished = ebusy::run(command.args(["--format", "json"]).args(options).arg(path))?;
    finished.expect_code(1)?;
    schema::read(str::from_utf8(&finished.stdout)?)
}

/// A refusal is explained as ever, and an end is one.
fn explains(watch: Watch, scratch: &Scratch) -> Result<()> {
    let holding = hold_fd(scratch, Namespace::Same, "file")?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    let expectation = Expectation::released(scratch, vec![Expected::on_target(&holding)]);
    harness::settle()?;
    holding.release()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let (incidents, _) = watch.finish()?;
    expectation.check_only(&incidents)
}

fn path_of_an_umount() -> Result<Verdict> {
    let (watched, other) = (Scratch::new(FileSystem::Tmpfs)?, Scratch::new(FileSystem::Tmpfs)?);
    let watch = Watch::targets(&[watched.path()])?;
    let waiter = Waiter::start("path", &other)?;
    // Long enough for its umount to be a slow one.
    pause::takes(
        Duration::from_secs(2),
        "the limit of a slow umount, and a look more",
    );
    explains(watch, &watched)?;
    waiter.finish(None)?;
    Ok(Verdict::Passed)
}

/// Whether this kernel is older.
fn kernel_before(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}

/// Every verb that shows a command line, of a process whose address space is locked: it is there all the same.
fn lock_of_an_address_space() -> Result<Verdict> {
    if kernel_before(6, 16) {
        return Ok(Verdict::Skipped(
            "before Linux 6.16 a FUSE page that is written back lets its mapping go".to_owned(),
        ));
    }
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let watch = Watch::start(&["--cmdline".into(), "--target".into(), scratch.path().into()])?;
    let waiter = Waiter::start("locked", &scratch)?;
    let reader = waiter.reader("cmdline")?;
    let pid = waiter.pid;
    let check = |holders: &[Holder]| {
        let mut processes = holders.iter().filter_map(|holder| holder.process.as_ref());
        let shown = processes.any(|process| {
            let line = process.cmdline.as_ref().and_then(|line| line.get(1));
            process.pid == pid && process.comm == "waiter" && line.is_some_and(|word| word == "locked")
        });
        ensure!(shown, "{holders:#?}");
        Ok(())
    };
    check(&who(&["--cmdline"], scratch.path())?.holders)?;
    let mut audit = ebusy::command("audit")?;
    audit.args(["--cmdline", "--target"]).arg(scratch.path());
    ebusy::run(&mut audit)?.expect_code(1)?;
    ensure!(!scratch.umount()?, "the umount was not refused");
    harness::settle()?;
    waiter.finish(Some(reader))?;
    pause::until(PATIENCE, || Ok(scratch.umount()?.then_some(())))?;
    check(&watch.finish_with_one()?.holders)?;
    Ok(Verdict::Passed)
}

fn lock_of_an_epoll() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let waiter = Waiter::start("epoll", &scratch)?;
    let tables = fs::read_dir(format!("/proc/{}/fd", waiter.pid))?;
    let mut epolls = tables.flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
    });
    let epoll = epolls.next().context("no epoll")?.file_name();
    let reader = waiter.reader(&format!("fdinfo/{}", epoll.display()))?;
    let found = who(&["--probe", "proc"], scratch.path())?;
    ensure!(
        found.holders.len() == 1 && found.holders[0].kind == "fd",
        "{found:#?}"
    );
    waiter.finish(Some(reader))?;
    Ok(Verdict::Passed)
}

/// What is in memory is shown, whole.
fn command_lines_of_others() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let file = scratch.join("held");
    fs::write(&file, "x")?;
    // Over several pages, and with an empty argument.
    let long = "x".repeat(10_000);
    let mut holder = Command::new("sleep");
    holder
        .arg("60")
        .stdin(File::open(&file)?)
        .env("WHAT_FOLLOWS", "the arguments");
    holder.args(["60", "0"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "read line", "a b", "", &long])
        .stdin(Stdio::piped())
        .stdout(File::open(&file)?);
    let spawned = (holder.spawn()?, shell.spawn()?);
    // They have the file open, too.
    drop((holder, shell));
    let (mut holder, mut shell) = spawned;
    let of = |pid: u32| -> Result<Vec<String>> {
        let found = who(&["--cmdline"], scratch.path())?;
        let processes = found.holders.into_iter().filter_map(|holder| holder.process);
        let process = processes.into_iter().find(|process| process.pid == pid);
        process
            .and_then(|process| process.cmdline)
            .with_context(|| format!("no command line of {pid}"))
    };
    let expected: [(u32, Vec<&str>); 2] = [
        (holder.id(), vec!["sleep", "60", "60", "0"]),
        (shell.id(), vec!["sh", "-c", "read line", "a b", "", &long]),
    ];
    for (pid, expected) in expected {
        pause::until(PATIENCE, || {
            Ok((fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == expected[0]).then_some(()))
        })?;
        let found = of(pid)?;
        ensure!(found == expected, "{found:?}");
    }
    for child in [&mut holder, &mut shell] {
        child.kill()?;
        child.wait()?;
    }
    Ok(Verdict::Passed)
}

/// The folder of a recording is on a file system that does not answer: after 10 s it is said where ebusy is, and after a
/// minute it ends.
fn output_that_does_not_answer() -> Result<Verdict> {
    let root = Connection::new()?.serve_in_thread();
    let folder = format!(
        "/proc/{}/fd/{}/never/capture",
        std::process::id(),
        root.as_raw_fd()
    );
    let began = Instant::now();
    let mut command = ebusy::command("record")?;
    let running = Running::start(command.arg("-o").arg(&folder))?;
    let line = running.wait_for("ebusy: stuck for 10 s")?;
    ensure!(
        line.contains(&format!("opening {folder}")) && line.contains("request_wait_answer"),
        "{line}"
    );
    let status = pause::until(2 * PATIENCE, || running.try_wait())?;
    let took = began.elapsed();
    let finished = running.finished(status)?;
    finished.expect_code(75)?;
    ensure!(
        finished.stderr.contains("ending with status 75"),
        "{}",
        finished.stderr
    );
    ensure!((50..90).contains(&took.as_secs()), "{took:?}");
    Ok(Verdict::Passed)
}

/// `watch` with a reader who does not read, stuck in the write of an incident.
struct Unread {
    scratch: Scratch,
    directory: TempDir,
    watch: Child,
    _reader: std::io::PipeReader,
    _holding: Holding,
}

impl Unread {
    fn start() -> Result<Self> {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let directory = tempfile::Builder::new().prefix("ebusy-out-").tempdir()?;
        let (unread, mut full) = std::io::pipe()?;
        // SAFETY: takes no pointers.
        let size = unsafe { libc::fcntl(full.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        ensure!(size == 4096, "F_SETPIPE_SZ: {size}");
        full.write_all(&[b'\n'; 4096])?;
        let mut command = ebusy::command("watch")?;
        command.arg("--target").arg(scratch.path());
        command.arg("--capture").arg(directory.path().join("capture"));
        let log = File::create(directory.path().join("log"))?;
        let watch = command.stdout(full).stderr(log).spawn()?;
        drop(command);
        let holding = hold_fd(&scratch, Namespace::Same, "file")?;
        let unread = Self {
            scratch,
            directory,
            watch,
            _reader: unread,
            _holding: holding,
        };
        unread.says("watching ")?;
        ensure!(!unread.scratch.umount()?, "the umount was not refused");
        let call = format!("/proc/{}/syscall", unread.watch.id());
        // write(2), to standard output.
        pause::until(PATIENCE, || {
            Ok(fs::read_to_string(&call)?.starts_with("1 0x1 ").then_some(()))
        })
        .context("ebusy does not wait for its reader")?;
        Ok(unread)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn says(&self, words: &str) -> Result<()> {
        pause::until(PATIENCE, || Ok(self.log().contains(words).then_some(())))
            .with_context(|| format!("not said: {words}\n{}", self.log()))
    }

    fn terminate(&mut self) -> Result<()> {
        ensure!(self.watch.try_wait()?.is_none(), "it has ended\n{}", self.log());
        let pid = Pid::from_raw(self.watch.id().cast_signed()).context("a process id")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// It ends soon, like that, and what was recorded is there.
    fn ends(&mut self, code: i32) -> Result<()> {
        let status = pause::until(Duration::from_secs(5), || Ok(self.watch.try_wait()?))?;
        ensure!(status.code() == Some(code), "{status}\n{}", self.log());
        let mut report = Command::new(ebusy::binary()?);
        let finished = ebusy::run(report.arg("report").arg(self.directory.path().join("capture")))?;
        let text = String::from_utf8_lossy(&finished.stdout);
        ensure!(text.contains("hold-fd"), "{text}{}", finished.stderr);
        Ok(())
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

/// The first signal cannot be obeyed; the second ends ebusy at once.
fn second_signal() -> Result<Verdict> {
    let mut unread = Unread::start()?;
    unread.terminate()?;
    unread.says("a second signal ends it at once")?;
    unread.terminate()?;
    unread.ends(143)?;
    Ok(Verdict::Passed)
}

/// ebusy says that it is stuck, but waits: whoever pages through the results may go on. Asked to end then, it does.
fn reader_that_pauses() -> Result<Verdict> {
    let mut unread = Unread::start()?;
    unread.says("stuck for 10 s writing the results (waiting in the kernel: ")?;
    pause::nothing_happens_for(Duration::from_mins(1), "a reader may take its time");
    unread.terminate()?;
    unread.ends(75)?;
    ensure!(
        unread
            .log()
            .contains("ending with status 75; what was recorded is kept"),
        "{}",
        unread.log()
    );
    Ok(Verdict::Passed)
}
