//! The test's side: starts and ends holder programs and other helpers.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{claim::Ready, harness, holders, namespace::Namespace, pause};

/// Limit for one step of a helper; emulated machines are slow.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The path of a program of this package: a link of that name to the one executable, made if it is missing.
pub fn program(name: &str) -> Result<PathBuf> {
    ensure!(holders::exists(name), "there is no program {name}");
    let executable = built(holders::EXECUTABLE)?;
    let path = executable.with_file_name(name);
    if fs::read_link(&path).ok().as_deref() != Some(Path::new(holders::EXECUTABLE)) {
        // Renamed into its place, so that a concurrent caller always finds one.
        tempfile::Builder::new()
            .make_in(executable.with_file_name(""), |link| {
                symlink(holders::EXECUTABLE, link)
            })
            .and_then(|link| Ok(link.persist(&path)?))
            .with_context(|| format!("link {}", path.display()))?;
    }
    Ok(path)
}

/// The path of an executable that cargo has built.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = directory()?.join(name);
    if !path.exists() {
        bail!(
            "{} is missing: build the package's programs, or set EBUSY_HOLDERS",
            path.display()
        );
    }
    Ok(path)
}

/// Where the programs are: `EBUSY_HOLDERS`, or where cargo puts them beside the test's own directory.
fn directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("EBUSY_HOLDERS") {
        return Ok(directory.into());
    }
    let executable = std::env::current_exe()?;
    let directory = executable.parent().context("an executable is in a directory")?;
    let above = directory.parent().filter(|_| directory.ends_with("deps"));
    Ok(above.unwrap_or(directory).to_owned())
}

/// A process that ends when this value is dropped.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<std::io::Result<String>>,
    name: String,
}

impl Helper {
    /// Starts a program with pipes for standard input and output.
    pub fn start<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> Result<Self> {
        Self::from_command(Command::new(program).args(arguments))
    }

    /// Starts a command with pipes for standard input and output.
    pub fn from_command(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let input = child.stdin.take();
        let lines = read_lines(child.stdout.take().context("standard output is a pipe")?);
        Ok(Self {
            child,
            input,
            lines,
            name,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output.
    pub fn line(&self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line?),
            Err(error) => bail!("{}: no line: {error}", self.name),
        }
    }

    /// Writes a line to it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").with_context(|| self.name.clone())
    }

    /// Closes its input.
    pub fn end_input(&mut self) {
        drop(self.input.take());
    }

    /// Closes its input and waits for its end, which must be successful.
    pub fn finish(mut self) -> Result<()> {
        self.end_input();
        let status = pause::until(PATIENCE, || Ok(self.child.try_wait()?))
            .with_context(|| format!("{} does not end", self.name))?;
        ensure!(status.success(), "{}: {status}", self.name);
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // If it has been waited for, `kill` does nothing. A process that waits in the kernel for a server that is its
        // own child cannot end before that child, which in turn waits for its parent's end.
        if matches!(self.child.try_wait(), Ok(None)) {
            let servers = children(self.child.id());
            let _ = self.child.kill();
            for server in servers {
                let _ = kill_process(server, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// The children of a process; of its first thread, which forks them.
fn children(pid: u32) -> Vec<Pid> {
    let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// A thread of its own reads, so that a test never waits longer than it wants to.
fn read_lines(output: ChildStdout) -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A holder program that is in its namespace and waits for the paths.
#[derive(Debug)]
pub struct Waiting(Helper);

/// A holder program that holds.
#[derive(Debug)]
pub struct Holding {
    helper: Helper,
    /// Its claims.
    pub claimed: Claimed,
}

/// The claims of a holder program; they outlive it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Its path arguments.
    pub paths: Vec<PathBuf>,
    /// Its answer.
    pub ready: Ready,
}

/// A holder program cannot take its reference here.
#[derive(Debug, serde::Deserialize, thiserror::Error)]
#[error("{skip}")]
pub struct Skip {
    /// The reason.
    pub skip: String,
}

impl Skip {
    /// Makes one with this reason.
    #[must_use]
    pub fn because(reason: &str) -> Self {
        let skip = reason.to_owned();
        Self { skip }
    }
}

impl Waiting {
    /// Starts a holder program that enters its namespace and waits there.
    pub fn start(name: &str, namespace: Namespace) -> Result<Self> {
        let mut command = Command::new(program(name)?);
        let helper = Helper::from_command(command.args(["--mntns", namespace.name(), "--wait"]))?;
        let line = helper.line()?;
        if !line.contains("waiting") {
            bail!("{name}: not waiting: {line}");
        }
        Ok(Self(helper))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Lets it take its references.
    pub fn proceed(mut self, paths: &[PathBuf]) -> Result<Holding> {
        let bytes: Vec<_> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
        self.0.say(&serde_json::to_string(&bytes)?)?;
        Holding::of(self.0, paths)
    }
}

impl Holding {
    /// Starts a holder program and waits until it holds. It takes its references some time after its namespace and the
    /// mount were made: by then every watcher of opens knows them.
    pub fn start(name: &str, namespace: Namespace, paths: &[PathBuf]) -> Result<Self> {
        let waiting = Waiting::start(name, namespace)?;
        harness::settle()?;
        waiting.proceed(paths)
    }

    /// Starts a holder program that takes its references as soon as the namespace is there, and waits until it holds.
    pub fn start_at_once(name: &str, namespace: Namespace, paths: &[PathBuf]) -> Result<Self> {
        let mut command = Command::new(program(name)?);
        command.args(["--mntns", namespace.name()]).args(paths);
        Self::of(Helper::from_command(&mut command)?, paths)
    }

    fn of(helper: Helper, paths: &[PathBuf]) -> Result<Self> {
        let line = helper.line()?;
        if let Ok(skip) = serde_json::from_str::<Skip>(&line) {
            return Err(skip.into());
        }
        let ready = serde_json::from_str(&line).with_context(|| format!("ready line: {line}"))?;
        Ok(Self {
            helper,
            claimed: Claimed {
                paths: paths.to_vec(),
                ready,
            },
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.helper.pid()
    }

    /// Releases its references and ends it properly.
    pub fn release(self) -> Result<()> {
        self.helper.finish()
    }
}
