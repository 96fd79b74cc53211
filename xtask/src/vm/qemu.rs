//! Boots a kernel with an initramfs in QEMU, streams what its program prints, and ends it by its own process id.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    emulator::{Emulator, QEMU},
    outcome::{Outcome, Watch},
};

/// How long the machine may take until its program starts. Emulated, it takes 5 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_mins(3);

/// The same where the processor runs the machine: 1 s.
const KVM_LIMIT: Duration = Duration::from_secs(10);

/// How long the machine may take to turn itself off after its verdict.
const OFF_LIMIT: Duration = Duration::from_secs(10);

/// What executes the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator.
    Tcg,
}

impl Accelerator {
    const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    const fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// What runs it.
    pub(crate) emulator: Emulator,
    /// The kernel's image.
    pub(crate) kernel: PathBuf,
    /// The archive with the root.
    pub(crate) initrd: PathBuf,
    /// More words for the kernel's command line.
    pub(crate) append: String,
    /// In QEMU's notation.
    pub(crate) memory: String,
    /// How long the program may take.
    pub(crate) timeout: Duration,
    /// Shows the console on stderr.
    pub(crate) console: bool,
}

/// How a boot ended, with what is needed to say why.
#[derive(Debug)]
pub(crate) struct Run {
    /// The verdict.
    pub(crate) outcome: Outcome,
    /// Whether the program had been started.
    pub(crate) began: bool,
    /// The kernel's release, if the program was started.
    pub(crate) release: Option<String>,
    /// The end of the console.
    pub(crate) console: Vec<String>,
}

enum Line {
    Result(String),
    Console(String),
}

impl Machine {
    /// Boots the machine, a second time if the kernel gave up or hung before the program was started (an emulated
    /// boot does so about once in fifty), and hands each line of the program to `show`.
    pub(crate) fn run(&self, accelerator: Accelerator, show: &mut dyn FnMut(&str)) -> Result<Run> {
        let limit = if accelerator == Accelerator::Kvm {
            KVM_LIMIT
        } else {
            BOOT_LIMIT
        };
        let run = self.boot(accelerator, limit, show)?;
        if run.began || !matches!(run.outcome, Outcome::Panicked(_) | Outcome::TimedOut(_)) {
            return Ok(run);
        }
        eprintln!(
            "xtask: the machine did not start its program ({}); booting once more",
            run.outcome
        );
        self.boot(accelerator, limit, show)
    }

    /// How one boot by the processor ends.
    pub(crate) fn try_kvm(&self) -> Result<Outcome> {
        Ok(self.boot(Accelerator::Kvm, KVM_LIMIT, &mut |_| ())?.outcome)
    }

    fn boot(&self, accelerator: Accelerator, limit: Duration, show: &mut dyn FnMut(&str)) -> Result<Run> {
        let mut child = self
            .command(accelerator)
            .spawn()
            .with_context(|| format!("starting {}; `cargo xtask setup --vm` installs it", self.emulator))?;
        let (sender, receiver) = channel();
        let readers = [
            child
                .stdout
                .take()
                .map(|pipe| read_lines(pipe, Line::Result, sender.clone())),
            child
                .stderr
                .take()
                .map(|pipe| read_lines(pipe, Line::Console, sender)),
        ];
        let mut watch = Watch::default();
        let ended = self.follow(&mut child, &receiver, limit, &mut watch, show);
        // By the handle of the process that this function started, whatever happened above.
        let status = end(&mut child);
        let ended = ended?;
        for reader in readers.into_iter().flatten() {
            // After the process has ended, its pipes have; one that would not end keeps its readers.
            if status.is_some() {
                let _ = reader.join();
            }
        }
        let outcome = watch.outcome().or(ended).unwrap_or_else(|| {
            Outcome::Failed(match status {
                Some(status) => format!("{QEMU} ended without a verdict of the machine ({status})"),
                None => format!("{QEMU} (process {}) could not be ended", child.id()),
            })
        });
        Ok(Run {
            outcome,
            began: watch.began(),
            release: watch.release().map(str::to_owned),
            console: watch.console_tail().map(str::to_owned).collect(),
        })
    }

    /// Reads lines until both ports are closed, the verdict is a while ago, or a limit has passed.
    fn follow(
        &self,
        child: &mut Child,
        receiver: &Receiver<Line>,
        boot_limit: Duration,
        watch: &mut Watch,
        show: &mut dyn FnMut(&str),
    ) -> Result<Option<Outcome>> {
        let mut limit = boot_limit;
        let mut deadline = Instant::now() + limit;
        let mut decided = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let began = watch.began();
            match receiver.recv_timeout(left) {
                Ok(Line::Result(line)) => {
                    if let Some(text) = watch.result_line(&line) {
                        show(text);
                    }
                }
                Ok(Line::Console(line)) => {
                    if self.console {
                        eprintln!("{line}");
                    }
                    watch.console_line(&line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    child.wait().context("waiting for the emulator")?;
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => return Ok((!decided).then_some(Outcome::TimedOut(limit))),
            }
            if !began && watch.began() {
                limit = self.timeout;
                deadline = Instant::now() + limit;
            }
            if !decided && watch.outcome().is_some() {
                decided = true;
                deadline = Instant::now() + OFF_LIMIT;
            }
        }
    }

    fn command(&self, accelerator: Accelerator) -> Command {
        let mut command = self.emulator.command();
        command
            .args(accelerator.args())
            .args(["-m", &self.memory, "-smp", "2"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            // The first port is the console, the second carries the results.
            .args([
                "-chardev",
                "file,id=console,path=/dev/stderr",
                "-serial",
                "chardev:console",
            ])
            .args([
                "-chardev",
                "file,id=results,path=/dev/stdout",
                "-serial",
                "chardev:results",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args([
                "-append",
                &format!("console=ttyS0 panic=-1 oops=panic quiet {}", self.append),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec this makes one system call, and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(|| {
                // Whatever ends this program, no machine is left behind.
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                Ok(())
            });
        }
        command
    }
}

/// Ends the process unless it has ended. `None` if the kernel does not let go of it (a hung KVM).
fn end(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let _ = child.kill();
        thread::sleep(Duration::from_millis(10));
    }
    None
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    kind: fn(String) -> Line,
    sender: Sender<Line>,
) -> thread::JoinHandle<()> {
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
    })
}

/// Takes what `EBUSY_VM_ACCEL` says, else KVM if `probe` boots by it within seconds, else the emulator. Some hosts
/// have a `/dev/kvm` that hangs; the answer is kept until the next boot of this host.
pub(crate) fn choose(cache: &Path, probe: impl FnOnce() -> Result<Outcome>) -> Result<Accelerator> {
    match std::env::var("EBUSY_VM_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok(other) if !other.is_empty() && other != "auto" => {
            anyhow::bail!("EBUSY_VM_ACCEL={other} is none of auto, kvm, tcg")
        }
        _ => {}
    }
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if device.is_err() {
        return Ok(Accelerator::Tcg);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = cache.join("accelerator");
    let known = fs::read_to_string(&file).unwrap_or_default();
    for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
        if known == format!("{} {boot_id}", accelerator.name()) {
            return Ok(accelerator);
        }
    }
    eprintln!("xtask: trying KVM, for {} s at most", KVM_LIMIT.as_secs());
    let outcome = probe()?;
    let accelerator = if outcome == Outcome::Exited(0) {
        Accelerator::Kvm
    } else {
        eprintln!("xtask: KVM does not work here ({outcome}); emulating");
        Accelerator::Tcg
    };
    fs::write(&file, format!("{} {boot_id}", accelerator.name()))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(accelerator)
}
