//! Running ebusy.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Seek as _, SeekFrom, Write as _},
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    follower::Follower,
    holder::PATIENCE,
    pause,
    report::{self, Incident, Who},
    schema,
};

/// The ebusy binary: `EBUSY_BIN`, or the one that cargo built beside the holder programs.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os("EBUSY_BIN") {
        Some(path) => Ok(path.into()),
        None => crate::holder::built("ebusy").context("build the package tracer, or set EBUSY_BIN"),
    }
}

/// `--probe`, if `EBUSY_PROBE` is set.
fn probe_arguments() -> Vec<OsString> {
    std::env::var_os("EBUSY_PROBE").map_or_else(Vec::new, |probe| vec!["--probe".into(), probe])
}

/// Makes a command that runs a verb with the probe tier of this test run.
pub fn command(verb: &str) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg(verb).args(probe_arguments());
    Ok(command)
}

/// The result of a run of ebusy.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Asserts the exit status.
    pub fn expect_code(&self, code: i32) -> Result<()> {
        ensure!(
            self.status.code() == Some(code),
            "{}, expected exit status {code}\n{}{}",
            self.status,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        Ok(())
    }
}

/// Runs a command to its end, within the tests' patience. No run of ebusy may panic or die of a signal.
pub fn run(command: &mut Command) -> Result<Finished> {
    let running = Running::start(command)?;
    let status = running.wait()?;
    running.finished(status)
}

/// A running ebusy.
#[derive(Debug)]
pub struct Running {
    follower: Arc<Follower>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::reading(command, Stdio::null())
    }

    /// Starts it with input on stdin.
    pub fn reading(command: &mut Command, input: impl Into<Stdio>) -> Result<Self> {
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        let stdout = child
            .stdout
            .take()
            .map(|output| thread::spawn(move || read_all(output)));
        let stderr = child.stderr.take();
        let follower = Follower::of(child);
        let stderr = stderr.map(|output| {
            let follower = Arc::clone(&follower);
            thread::spawn(move || follower.read(output))
        });
        Ok(Self {
            follower,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.follower.pid()
    }

    /// Its standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.follower.log()
    }

    /// Its peak memory, KiB.
    pub fn most_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.context("VmHWM")?.parse().context("VmHWM")
    }

    /// Waits for a line on standard error with this prefix.
    pub fn wait_for(&self, start: &str) -> Result<String> {
        self.follower.wait_for(start)
    }

    /// Waits until it has handled everything that has happened so far.
    pub fn catch_up(&self) -> Result<()> {
        self.follower.catch_up().map(drop)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.follower.signal(signal)
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.follower.try_wait()
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<ExitStatus> {
        pause::until(PATIENCE, || self.follower.try_wait())
            .with_context(|| format!("ebusy does not end\n{}", self.log()))
    }

    /// Its output after its end; asserts that it did not panic.
    pub fn finished(mut self, status: ExitStatus) -> Result<Finished> {
        let stdout = self.stdout.take().and_then(join).unwrap_or_default();
        self.stderr.take().and_then(join);
        let stderr = self.log();
        ensure!(!stderr.contains("panicked"), "ebusy panicked\n{stderr}");
        ensure!(status.signal().is_none(), "ebusy died: {status}\n{stderr}");
        Ok(Finished {
            status,
            stdout,
            stderr,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.follower.kill();
    }
}

/// Waits for a reader, but not forever: a leftover command may still have the pipe open.
fn join<T>(reader: JoinHandle<T>) -> Option<T> {
    pause::until(Duration::from_secs(1), || Ok(reader.is_finished().then_some(()))).ok()?;
    reader.join().ok()
}

fn read_all(mut output: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = output.read_to_end(&mut bytes);
    bytes
}

/// `ebusy watch`, which writes its incidents to a file.
#[derive(Debug)]
pub struct Watch {
    running: Running,
    directory: TempDir,
    told: Mutex<Told>,
}

/// The lines read from its file: each is parsed once, however often a test looks.
#[derive(Debug, Default)]
struct Told {
    bytes: u64,
    incidents: Vec<Incident>,
}

impl Watch {
    /// Watches targets that match, and returns once it is attached.
    pub fn targets<T: AsRef<OsStr>>(globs: &[T]) -> Result<Self> {
        let mut arguments = Vec::new();
        for glob in globs {
            arguments.push(OsString::from("--target"));
            arguments.push(glob.as_ref().to_owned());
        }
        Self::start(&arguments)
    }

    /// Starts it with these arguments, and returns once it is attached.
    pub fn start(arguments: &[OsString]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-out-").tempdir()?;
        let mut command = command("watch")?;
        command
            .args(["--no-capture", "--format", "json", "-o"])
            .arg(directory.path().join("incidents.jsonl"));
        let running = Running::start(command.args(arguments))?;
        running.wait_for("watching")?;
        Ok(Self {
            running,
            directory,
            told: Mutex::default(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.log()
    }

    /// Number of its looks at a mount so far; start it with `-vv`. This tells a test, even on a loaded machine, that an
    /// attempt was looked at.
    #[must_use]
    pub fn looks_at(&self, mount_id: u32) -> usize {
        let taken = format!("snapshot of mount {mount_id} took");
        let log = self.running.log();
        log.lines().filter(|line| line.contains(&taken)).count()
    }

    /// Waits until it has looked at a mount after an attempt that began later than `since`, in nanoseconds of the boot
    /// clock; start it with `-vv`. Looks are spaced out if they take long.
    pub fn wait_for_look(&self, mount_id: u32, since: u64) -> Result<()> {
        let start = format!("snapshot of mount {mount_id} took");
        let returned = |line: &str| -> Option<u64> {
            let (_, line) = line.split_once(&start)?;
            let (_, time) = line.split_once("returned at ")?;
            time.split_once(' ')?.0.parse().ok()
        };
        pause::until(PATIENCE, || {
            let log = self.running.log();
            let looked = log.lines().filter_map(returned).any(|returned| returned > since);
            Ok(looked.then_some(()))
        })
        .with_context(|| format!("nobody looks at mount {mount_id}\n{}", self.running.log()))
    }

    /// The incidents that it has written so far.
    pub fn incidents(&self) -> Result<Vec<Incident>> {
        Ok(self.told()?.incidents.clone())
    }

    fn told(&self) -> Result<MutexGuard<'_, Told>> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match File::open(self.directory.path().join("incidents.jsonl")) {
            Ok(file) => file,
            // Nothing was written.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(told),
            Err(error) => return Err(error).context("incidents"),
        };
        file.seek(SeekFrom::Start(told.bytes))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may be incomplete.
        bytes.truncate(
            bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |end| end + 1),
        );
        let lines = str::from_utf8(&bytes).context("JSON is UTF-8")?;
        told.incidents.extend(report::incidents(lines)?);
        told.bytes += bytes.len() as u64;
        Ok(told)
    }

    /// Waits until it has written that many incidents.
    pub fn wait_for_incidents(&self, count: usize, patience: Duration) -> Result<Vec<Incident>> {
        self.wait(patience, |incidents| {
            (incidents.len() >= count).then(|| incidents.to_vec())
        })
        .with_context(|| format!("waiting for {count} incidents"))
    }

    /// Waits for the first incident of a target.
    pub fn wait_for_incident(&self, target: &Path, patience: Duration) -> Result<Incident> {
        let is_its = |incident: &&Incident| {
            incident
                .target
                .path_bytes()
                .is_ok_and(|path| path == target.as_os_str().as_bytes())
        };
        self.wait(patience, |incidents| incidents.iter().find(is_its).cloned())
            .with_context(|| format!("waiting for an incident of {}", target.display()))
    }

    fn wait<T>(&self, patience: Duration, look: impl Fn(&[Incident]) -> Option<T>) -> Result<T> {
        pause::until(patience, || Ok(look(&self.told()?.incidents))).with_context(|| {
            let told = self.told().map_or(0, |told| told.incidents.len());
            format!("there are {told} incidents\n{}", self.running.log())
        })
    }

    /// Interrupts it as Control-C does; returns all incidents and its standard error.
    pub fn finish(self) -> Result<(Vec<Incident>, String)> {
        self.running.signal(Signal::INT)?;
        let status = self.running.wait()?;
        let incidents = self.incidents()?;
        let finished = self.running.finished(status)?;
        // Without a command, an interrupt is the normal end of a watch.
        finished.expect_code(0)?;
        Ok((incidents, finished.stderr))
    }

    /// Ends it; asserts that it reported one incident.
    pub fn finish_with_one(self) -> Result<Incident> {
        let (incidents, log) = self.finish()?;
        ensure!(
            incidents.len() == 1,
            "{} incidents\n{incidents:#?}\n{log}",
            incidents.len()
        );
        incidents.into_iter().next().context("an incident")
    }
}

/// Keeps the incidents of targets in a directory: ebusy also watches the containers of the host, which may have
/// incidents of their own.
#[must_use]
pub fn below(directory: &Path, mut incidents: Vec<Incident>) -> Vec<Incident> {
    incidents.retain(|incident| Path::new(&incident.target.path).starts_with(directory));
    incidents
}

/// Runs `ebusy who` on anything; checks that its exit status agrees with its answer.
pub fn who<W: AsRef<OsStr>>(what: W) -> Result<(i32, Vec<Who>)> {
    answers(run(command("who")?.args(["--format", "json"]).arg(what))?)
}

/// Runs `ebusy who -` on lines of a log.
pub fn who_of_log(log: &str) -> Result<(i32, Vec<Who>)> {
    answers(asked_of_log(log)?)
}

/// Runs `ebusy who -` on lines of a log, with any exit status.
pub fn asked_of_log(log: &str) -> Result<Finished> {
    let mut input = tempfile::tempfile()?;
    input.write_all(log.as_bytes())?;
    input.rewind()?;
    let running = Running::reading(command("who")?.args(["--format", "json", "-"]), input)?;
    let status = running.wait()?;
    running.finished(status)
}

fn answers(finished: Finished) -> Result<(i32, Vec<Who>)> {
    let code = finished.status.code().context("an exit status")?;
    let json = String::from_utf8(finished.stdout).context("JSON is UTF-8")?;
    let answers = schema::read_lines(&json).with_context(|| finished.stderr.clone())?;
    ensure!(code == 0 || code == 1, "exit status {code}\n{}", finished.stderr);
    Ok((code, answers))
}
