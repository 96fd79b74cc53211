//! Runs programs under other kernels, in virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{say, workspace::Workspace};

use self::{
    image::Image,
    instance::{Instance, Run},
    protocol::Config,
    qemu::{KVM_LIMIT, Machine},
    saved::Saved,
};

pub(crate) use self::{emulator::Emulator, kernels::Kernel, outcome::Outcome, qemu::Accelerator};

mod cpio;
mod emulator;
mod image;
mod instance;
mod kernels;
mod outcome;
mod protocol;
mod qemu;
mod qmp;
mod saved;

/// Options of `cargo xtask vm`.
#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    /// Debian's kernel of this version: 5.10, 6.1, 6.12 or 7.2
    #[arg(long, default_value = "6.1")]
    kernel: String,
    /// Run this shell script, with the program and its arguments as its arguments
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Take this static program or other file along, to /opt/bin, or to the path after the colon
    #[arg(long, value_name = "FILE[:PATH]")]
    add: Vec<String>,
    /// A variable of the program's environment
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// More words for the kernel's command line
    #[arg(long, default_value = "", hide_default_value = true)]
    append: String,
    /// Memory of the machine
    #[arg(long, default_value = "1G")]
    memory: String,
    /// Seconds that the program may take
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Show the kernel's console on stderr
    #[arg(long)]
    console: bool,
    /// Look for a newer version of the kernel
    #[arg(long)]
    refresh: bool,
    /// A static program and its arguments; a name without a slash is one of the machine's busybox
    #[arg(last = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// The parts of machines.
#[derive(Debug)]
pub(crate) struct Lab {
    cache: PathBuf,
    init: PathBuf,
    emulator: Emulator,
    boots: AtomicUsize,
    /// Tried, and not possible here.
    cannot_save: AtomicBool,
}

/// A job for a machine.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// Static programs by their path in the machine.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Other files by their path in the machine.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// Names and values.
    pub(crate) env: Vec<(String, String)>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Words for the kernel's command line.
    pub(crate) append: String,
    /// In QEMU's notation; empty for the usual.
    pub(crate) memory: String,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// Show the console.
    pub(crate) console: bool,
    /// Continue from a machine that was saved when it was ready, or save one: worth it for many jobs with the same
    /// files.
    pub(crate) saved: bool,
}

impl Job {
    fn config(&self) -> Config {
        Config {
            env: self.env.clone(),
            argv: self.argv.clone(),
        }
    }
}

impl Lab {
    /// Installs the emulator if it can, and builds the init.
    pub(crate) fn open(workspace: &Workspace) -> Result<Self> {
        let emulator = Emulator::find(workspace)?;
        let cache = workspace.target.join("vm");
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        // Files of killed runs, which could not remove them.
        remove_temporary(&cache, |owner| {
            !Path::new("/proc").join(owner.to_string()).exists()
        });
        let init = workspace.program("xtask", "vm-init", "dev")?;
        Ok(Self {
            cache,
            init,
            emulator,
            boots: AtomicUsize::new(0),
            cannot_save: AtomicBool::new(false),
        })
    }

    /// Fetches the kernel unless it is in the cache.
    pub(crate) fn kernel(&self, name: &str, refresh: bool) -> Result<Kernel> {
        Kernel::get(&self.cache, name, refresh)
    }

    /// Runs the job in a machine of its own, and hands each line of its output to `show`.
    pub(crate) fn run(&self, kernel: &Kernel, job: &Job, show: &mut dyn FnMut(&str)) -> Result<Run> {
        let accelerator = self.accelerator(kernel)?;
        let (machine, _initrd, root) = self.machine(kernel, job, "run")?;
        if job.saved && !self.cannot_save.load(Ordering::Relaxed) {
            let saved = Saved::of(&self.cache, kernel.name(), &machine, accelerator, &root);
            if let Some(run) = self.run_saved(&machine, accelerator, &saved, job, show)? {
                return Ok(run);
            }
        }
        match self.boot(&machine, accelerator, job.console)? {
            Ok((instance, _)) => instance.run(&job.config(), job.timeout, show),
            Err(run) => Ok(run),
        }
    }

    /// The accelerator here.
    pub(crate) fn accelerator(&self, kernel: &Kernel) -> Result<Accelerator> {
        qemu::choose(&self.cache, || {
            let probe = Job {
                argv: ["/bin/busybox", "true"].map(str::to_owned).to_vec(),
                timeout: KVM_LIMIT,
                ..Job::default()
            };
            let (machine, _initrd, _) = self.machine(kernel, &probe, "probe")?;
            let mut instance = Instance::boot(&machine, Accelerator::Kvm, false)?;
            Ok(match instance.ready(KVM_LIMIT) {
                Ok(_) => instance.run(&probe.config(), probe.timeout, &mut |_| ())?.outcome,
                Err(outcome) => outcome,
            })
        })
    }

    /// Runs the job in a machine that continues from its saved state, which is made if there is none. `None`, after a
    /// message with the reason, if a machine has to be booted for the job.
    fn run_saved(
        &self,
        machine: &Machine,
        accelerator: Accelerator,
        saved: &Saved,
        job: &Job,
        show: &mut dyn FnMut(&str),
    ) -> Result<Option<Run>> {
        if saved.get().is_none() {
            let (instance, release) = match self.boot(machine, accelerator, job.console)? {
                Ok(ready) => ready,
                Err(run) => return Ok(Some(run)),
            };
            if let Err(error) = saved.write(instance, &release) {
                say(&format!(
                    "no machine can be saved in {}, each job boots one: {error:#}",
                    self.cache.display()
                ));
                self.cannot_save.store(true, Ordering::Relaxed);
                return Ok(None);
            }
        }
        let Some((state, release)) = saved.get() else {
            return Ok(None);
        };
        let run = Instance::restore(machine, accelerator, (state, &release), job.console)
            .and_then(|instance| instance.run(&job.config(), job.timeout, show));
        let why = match run {
            Ok(run) if run.began.is_some() => return Ok(Some(run)),
            Ok(run) => run.outcome.to_string(),
            Err(error) => format!("{error:#}"),
        };
        say(&format!("the saved machine did not go on ({why}); booting"));
        saved.forget();
        Ok(None)
    }

    /// A machine that waits for a job and the kernel's release, at the second try if the kernel gave up or hung before
    /// (an emulated boot does so about once in fifty); or its verdict.
    fn boot(
        &self,
        machine: &Machine,
        accelerator: Accelerator,
        console: bool,
    ) -> Result<Result<(Instance, String), Run>> {
        for last in [false, true] {
            self.boots.fetch_add(1, Ordering::Relaxed);
            let mut instance = Instance::boot(machine, accelerator, console)?;
            match instance.ready(accelerator.boot_limit()) {
                Ok(release) => return Ok(Ok((instance, release))),
                Err(outcome @ (Outcome::Panicked(_) | Outcome::TimedOut(_))) if !last => {
                    say(&format!(
                        "the machine did not become ready ({outcome}); booting once more"
                    ));
                }
                Err(outcome) => return Ok(Err(instance.verdict(Some(outcome)))),
            }
        }
        unreachable!("the last try returns")
    }

    /// How often a machine was booted.
    pub(crate) fn boots(&self) -> usize {
        self.boots.load(Ordering::Relaxed)
    }

    /// A machine with the programs and files of a job; its root as well, and the file that has it.
    fn machine(&self, kernel: &Kernel, job: &Job, purpose: &str) -> Result<(Machine, Temporary, Vec<u8>)> {
        let mut image = Image::new(kernel, &self.init)?;
        for (path, source) in &job.programs {
            image.add_program(path, source)?;
        }
        for (path, source) in &job.files {
            let data = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
            image.add_file(path, &data);
        }
        let root = image.finish();
        let initrd = self
            .cache
            .join(format!("{purpose}-{}-{}.cpio", kernel.name(), std::process::id()));
        fs::write(&initrd, &root).with_context(|| format!("writing {}", initrd.display()))?;
        let machine = Machine {
            emulator: self.emulator.clone(),
            kernel: kernel.image(),
            initrd: initrd.clone(),
            append: job.append.clone(),
            memory: if job.memory.is_empty() {
                "1G".to_owned()
            } else {
                job.memory.clone()
            },
        };
        Ok((machine, Temporary(initrd), root))
    }
}

/// Removes archives and half-written states of runs: `NAME-PID.cpio`, `NAME.state-PID`, by the process that wrote them.
pub(crate) fn remove_temporary(cache: &Path, is_over: impl Fn(u32) -> bool) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_suffix(".cpio").unwrap_or(&name).rsplit_once('-');
        let owner = owner.and_then(|(_, pid)| pid.parse().ok());
        if owner.is_some_and(&is_over) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file that is removed with its owner.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `cargo xtask vm`: the status is the program's own, 124 after the time limit, 125 if the machine failed.
pub(crate) fn main(workspace: &Workspace, args: &VmArgs) -> Result<u8> {
    let job = job(args)?;
    let lab = Lab::open(workspace)?;
    let kernel = lab.kernel(&args.kernel, args.refresh)?;
    let run = lab.run(&kernel, &job, &mut |line| println!("{line}"))?;
    report(&run);
    Ok(run.outcome.status())
}

/// Says on stderr how a run ended that did not end by itself, with the end of the console.
pub(crate) fn report(run: &Run) {
    if matches!(run.outcome, Outcome::Exited(_)) {
        return;
    }
    for line in &run.console {
        eprintln!("  {line}");
    }
    let when = if run.began.is_some() {
        ""
    } else {
        " before the program was started"
    };
    eprintln!("xtask: {}{when}", run.outcome);
}

fn job(args: &VmArgs) -> Result<Job> {
    let mut job = Job {
        append: args.append.clone(),
        memory: args.memory.clone(),
        timeout: Duration::from_secs(args.timeout),
        console: args.console,
        ..Job::default()
    };
    job.env.push(("EBUSY_VM".to_owned(), args.kernel.clone()));
    for pair in &args.env {
        let (name, value) = pair
            .split_once('=')
            .with_context(|| format!("--env {pair} is not NAME=VALUE"))?;
        job.env.push((name.to_owned(), value.to_owned()));
    }
    for add in &args.add {
        let (source, path) = match add.split_once(':') {
            Some((source, path)) => (PathBuf::from(source), path.to_owned()),
            None => (PathBuf::from(add), in_opt(Path::new(add))?),
        };
        job.files.push((path, source));
    }
    if let Some(script) = &args.script {
        job.files.push(("/opt/script".to_owned(), script.clone()));
        job.argv.extend(["/bin/sh".to_owned(), "/opt/script".to_owned()]);
    }
    match args.command.as_slice() {
        [] if args.script.is_none() => bail!("nothing to run: name a program after `--`, or a --script"),
        [] => {}
        [program, arguments @ ..] => {
            if program.contains('/') {
                let path = in_opt(Path::new(program))?;
                job.argv.push(path.clone());
                job.programs.push((path, PathBuf::from(program)));
            } else {
                job.argv.extend(["/bin/busybox".to_owned(), program.clone()]);
            }
            job.argv.extend(arguments.iter().cloned());
        }
    }
    Ok(job)
}

fn in_opt(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(format!(
        "/opt/bin/{}",
        name.with_context(|| format!("{} has no usable name", path.display()))?
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::remove_temporary;

    #[test]
    fn only_what_an_ended_process_left_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        let names = [
            "run-12.cpio",
            "run-13.cpio",
            "6.1.state-12",
            "6.1.state",
            "6.1.state-of",
            "6.1-lockdown.state",
        ];
        for name in names {
            fs::write(cache.path().join(name), "").unwrap();
        }
        remove_temporary(cache.path(), |owner| owner == 12);
        let left = names.map(|name| cache.path().join(name).exists());
        assert_eq!(left, [false, true, false, true, true, true]);
    }
}
