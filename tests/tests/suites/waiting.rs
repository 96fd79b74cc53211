//! ebusy never waits for others: processes whose memory never comes, readers that do not read, file systems that do not
//! answer. If it gets stuck anyway, it says where, and ends.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Running, Watch},
    expect::{Expectation, Expected},
    fuse::Connection,
    harness::{self, Verdict},
    holder::{Helper, PATIENCE, program},
    namespace::Namespace,
    pause,
    report::{Holder, Who},
    schema,
    scratch::{FileSystem, Scratch},
    steps::hold_fd,
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, UnmountFlags, move_mount, unmount},
    process::Signal,
};
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
            harness::test("waiting_signal", a_signal_ends_it),
        ],
        6,
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

    /// A reader of a /proc file that does wait for it.
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

    /// Releases it: now the other reader ends too, which has waited all the time.
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

/// ebusy explains a refusal and ends as usual.
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

/// True if this kernel is older.
fn kernel_before(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}

/// Every verb that shows a command line shows that of a process whose address space is locked.
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

/// A command line in memory is shown completely.
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

/// A recording that is stuck at its start: its folder is on a file system that does not answer.
struct Stuck {
    running: Running,
    folder: PathBuf,
    _mounted: Mounted,
}

/// A file system on a directory.
struct Mounted(TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

impl Stuck {
    fn start() -> Result<Self> {
        let root = Connection::new()?.serve_in_thread();
        let directory = tempfile::Builder::new().prefix("ebusy-deaf-").tempdir()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&root, "", CWD, directory.path(), flags).context("move_mount")?;
        let mounted = Mounted(directory);
        let folder = mounted.0.path().join("never/capture");
        let mut command = ebusy::command("record")?;
        let running = Running::start(command.arg("-o").arg(&folder))?;
        Ok(Self {
            running,
            folder,
            _mounted: mounted,
        })
    }
}

/// After 10 s ebusy reports where it is stuck, and after a minute it ends.
fn output_that_does_not_answer() -> Result<Verdict> {
    let began = Instant::now();
    let stuck = Stuck::start()?;
    let line = stuck.running.wait_for("ebusy: stuck for 10 s")?;
    let folder = stuck.folder.display().to_string();
    ensure!(
        line.contains(&format!("opening {folder}")) && line.contains("request_wait_answer"),
        "{line}"
    );
    let status = pause::until(2 * PATIENCE, || stuck.running.try_wait())?;
    let finished = stuck.running.finished(status)?;
    let took = began.elapsed();
    finished.expect_code(75)?;
    ensure!(
        finished.stderr.contains("ending with status 75"),
        "{}",
        finished.stderr
    );
    ensure!((50..90).contains(&took.as_secs()), "{took:?}");
    Ok(Verdict::Passed)
}

/// It can be ended in the meantime.
fn a_signal_ends_it() -> Result<Verdict> {
    let stuck = Stuck::start()?;
    let waits_in = format!("/proc/{}/wchan", stuck.running.pid());
    pause::until(PATIENCE, || {
        let waits = fs::read_to_string(&waits_in)?.contains("request_wait_answer");
        Ok(waits.then_some(()))
    })
    .context("it does not wait for the file system")?;
    stuck.running.signal(Signal::TERM)?;
    let status = pause::until(Duration::from_secs(5), || stuck.running.try_wait())?;
    ensure!(status.signal() == Some(libc::SIGTERM), "{status}");
    Ok(Verdict::Passed)
}
