//! The command line of QEMU for a test machine, and the accelerator.

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Signal, nice, set_parent_process_death_signal},
};

use super::{emulator::Emulator, outcome::Outcome};

/// How long a machine may take until it waits for a job. Emulated, it takes 7 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_mins(3);

/// The limit with KVM: a boot takes 1 s.
pub(super) const KVM_LIMIT: Duration = Duration::from_secs(10);

/// Niceness of a machine, so that the tests on this host go first.
const NICE: i32 = 5;

/// The accelerator of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator.
    Tcg,
}

impl Accelerator {
    /// Its name for QEMU.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// How long a boot may take.
    pub(super) const fn boot_limit(self) -> Duration {
        match self {
            Self::Kvm => KVM_LIMIT,
            Self::Tcg => BOOT_LIMIT,
        }
    }

    const fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // All processors of a machine in one thread: one that runs while another changes its code (a hook is attached) may
            // find half of the change, and the kernel gives up by an int3. Two machines keep two cores busy all the same.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }
}

/// The parts of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its accelerator.
    pub(crate) emulator: Emulator,
    /// The kernel's image.
    pub(crate) kernel: PathBuf,
    /// The archive with the root.
    pub(crate) initrd: PathBuf,
    /// More words for the kernel's command line.
    pub(crate) append: String,
    /// In QEMU's notation.
    pub(crate) memory: String,
}

/// A command that starts a machine, with our ends of its lines.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) command: Command,
    /// The second serial port, which carries jobs and results.
    pub(super) results: UnixStream,
    pub(super) monitor: UnixStream,
    /// Open until the process has been started.
    _theirs: Vec<OwnedFd>,
}

impl Machine {
    /// The command for a boot, or to continue from a saved state. The console is its standard error.
    pub(super) fn prepare(&self, accelerator: Accelerator, state: Option<File>) -> Result<Prepared> {
        let (results, their_results) = UnixStream::pair().context("making a pair of sockets")?;
        let (monitor, their_monitor) = UnixStream::pair().context("making a pair of sockets")?;
        let socket = |id: &str, stream: &UnixStream| format!("socket,id={id},fd={}", stream.as_raw_fd());
        let mut command = self.emulator.command();
        command
            .args(accelerator.args())
            .args(["-m", &self.memory, "-smp", "2"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args([
                "-chardev",
                "file,id=console,path=/dev/stderr",
                "-serial",
                "chardev:console",
            ])
            .args(["-chardev", &socket("results", &their_results)])
            .args(["-serial", "chardev:results"])
            .args(["-chardev", &socket("monitor", &their_monitor)])
            .args(["-mon", "chardev=monitor,mode=control"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args([
                "-append",
                &format!("console=ttyS0 panic=-1 oops=panic quiet {}", self.append),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut theirs: Vec<OwnedFd> = vec![their_results.into(), their_monitor.into()];
        if let Some(state) = state {
            command.args(["-incoming", &format!("fd:{}", state.as_raw_fd())]);
            theirs.push(state.into());
        }
        let raw: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec this makes system calls alone, and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                // However this program ends, no machine is left behind.
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The tests on this host beside it are short, and wait for the clock of this host.
                nice(NICE)?;
                for fd in &raw {
                    // SAFETY: the descriptors are open until the process has been started.
                    fcntl_setfd(BorrowedFd::borrow_raw(*fd), FdFlags::empty())?;
                }
                Ok(())
            });
        }
        Ok(Prepared {
            command,
            results,
            monitor,
            _theirs: theirs,
        })
    }
}

/// Takes the one in `EBUSY_VM_ACCEL`, else KVM if `probe` boots with it within seconds, else the emulator. Some hosts
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
