//! A running machine: it becomes ready, is saved, runs a job, and is ended by its own process id.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    emulator::QEMU,
    outcome::{Outcome, Watch},
    protocol::Config,
    qemu::{Accelerator, Machine},
    qmp::Monitor,
};

/// How long a machine that continues from a saved state may take to begin its job: 0.5 s on an idle host.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);

/// The verdict on a job, with details for its reason.
#[derive(Debug)]
pub(crate) struct Run {
    /// The verdict.
    pub(crate) outcome: Outcome,
    /// When the program was started, if it was.
    pub(crate) began: Option<Instant>,
    /// The kernel's release, if the machine became ready.
    pub(crate) release: Option<String>,
    /// The end of the console.
    pub(crate) console: Vec<String>,
}

enum Line {
    Result(String),
    Console(String),
}

/// A running machine; its process ends with this value.
#[derive(Debug)]
pub(super) struct Instance {
    child: Child,
    results: UnixStream,
    monitor: Option<UnixStream>,
    lines: Receiver<Line>,
    watch: Watch,
    began: Option<Instant>,
    show_console: bool,
}

impl Instance {
    /// Boots it.
    pub(super) fn boot(machine: &Machine, accelerator: Accelerator, show_console: bool) -> Result<Self> {
        Self::start(machine, accelerator, None, show_console)
    }

    /// Starts it from a state that [`Instance::save`] wrote when it was ready.
    pub(super) fn restore(
        machine: &Machine,
        accelerator: Accelerator,
        (state, release): (&Path, &str),
        show_console: bool,
    ) -> Result<Self> {
        let file = File::open(state).with_context(|| format!("opening {}", state.display()))?;
        let mut instance = Self::start(machine, accelerator, Some(file), show_console)?;
        instance.watch = Watch::ready(release);
        instance.monitor()?.go_on()?;
        Ok(instance)
    }

    fn start(
        machine: &Machine,
        accelerator: Accelerator,
        state: Option<File>,
        show_console: bool,
    ) -> Result<Self> {
        let mut prepared = machine.prepare(accelerator, state)?;
        let mut child = prepared.command.spawn().with_context(|| {
            format!(
                "starting {}; `cargo xtask setup --vm` installs it",
                machine.emulator
            )
        })?;
        let (sender, lines) = channel();
        let console = child.stderr.take();
        let instance = Self {
            child,
            results: prepared.results,
            monitor: Some(prepared.monitor),
            lines,
            watch: Watch::default(),
            began: None,
            show_console,
        };
        read_lines(instance.results.try_clone()?, Line::Result, sender.clone());
        if let Some(console) = console {
            read_lines(console, Line::Console, sender);
        }
        Ok(instance)
    }

    fn monitor(&mut self) -> Result<Monitor> {
        Monitor::open(self.monitor.take().context("the monitor was opened before")?)
    }

    /// Waits until it waits for a job; the kernel's release, or how it ended before.
    pub(super) fn ready(&mut self, limit: Duration) -> Result<String, Outcome> {
        match self.follow(limit, Watch::is_ready, &mut |_| ()) {
            Some(outcome) => Err(outcome),
            None => Ok(self.watch.release().unwrap_or_default().to_owned()),
        }
    }

    /// Writes its state to a file, and ends it.
    pub(super) fn save(mut self, to: &Path) -> Result<()> {
        let Some(path) = to.to_str().filter(|path| !path.contains('\'')) else {
            bail!("{} cannot be named to a shell", to.display());
        };
        self.monitor()?.save(&format!("cat >'{path}'"))
    }

    /// Runs a job, and hands each line of the program to `show`.
    pub(super) fn run(mut self, job: &Config, limit: Duration, show: &mut dyn FnMut(&str)) -> Result<Run> {
        let text = job.render().map_err(anyhow::Error::msg)?;
        let sent = self.results.write_all(text.as_bytes());
        let ended = match sent {
            Ok(()) => self.follow(RESTORE_LIMIT, Watch::began, show).or_else(|| {
                self.began = Some(Instant::now());
                self.follow(limit, Watch::is_over, show)
            }),
            Err(error) => Some(Outcome::Failed(format!("the job could not be sent: {error}"))),
        };
        let outcome = self.watch.outcome().or(ended);
        Ok(self.verdict(outcome))
    }

    /// The report of one that ended.
    pub(super) fn verdict(mut self, outcome: Option<Outcome>) -> Run {
        let status = end(&mut self.child);
        let outcome = outcome.unwrap_or_else(|| {
            Outcome::Failed(match status {
                Some(status) => format!("{QEMU} ended without a verdict of the machine ({status})"),
                None => format!("{QEMU} (process {}) could not be ended", self.child.id()),
            })
        });
        Run {
            outcome,
            began: self.began,
            release: self.watch.release().map(str::to_owned),
            console: self.watch.console_tail().map(str::to_owned).collect(),
        }
    }

    /// Reads lines until they show this state. Otherwise returns how the machine ended, or that the limit has passed.
    fn follow(
        &mut self,
        limit: Duration,
        is_so: fn(&Watch) -> bool,
        show: &mut dyn FnMut(&str),
    ) -> Option<Outcome> {
        let deadline = Instant::now() + limit;
        loop {
            if is_so(&self.watch) {
                return None;
            }
            if let Some(outcome) = self.watch.outcome() {
                return Some(outcome);
            }
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(Line::Result(line)) => {
                    if let Some(text) = self.watch.result_line(&line) {
                        show(text);
                    }
                }
                Ok(Line::Console(line)) => {
                    if self.show_console {
                        eprintln!("{line}");
                    }
                    self.watch.console_line(&line);
                }
                Err(RecvTimeoutError::Timeout) => return Some(Outcome::TimedOut(limit)),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait();
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Some(Outcome::Failed(format!(
                        "{QEMU} ended without a verdict of the machine ({status})"
                    )));
                }
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// Ends the process unless it has ended. `None` if the kernel does not release it (a hung KVM).
fn end(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let _ = child.kill();
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn read_lines(pipe: impl Read + Send + 'static, kind: fn(String) -> Line, sender: Sender<Line>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']).to_owned();
            line.clear();
            if sender.send(kind(text)).is_err() {
                return;
            }
        }
    });
}
