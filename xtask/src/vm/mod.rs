//! Runs programs under other kernels, in virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::workspace::Workspace;

use self::{
    image::Image,
    qemu::{Machine, Run},
};

pub(crate) use self::{emulator::Emulator, kernels::Kernel, outcome::Outcome};

mod cpio;
mod emulator;
mod image;
mod kernels;
mod outcome;
mod protocol;
mod qemu;

/// Of `cargo xtask vm`.
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

/// What machines are made from.
#[derive(Debug)]
pub(crate) struct Lab {
    cache: PathBuf,
    init: PathBuf,
    emulator: Emulator,
}

/// What to run in a machine.
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
}

impl Lab {
    /// Installs the emulator if it can, and builds the init.
    pub(crate) fn open(workspace: &Workspace) -> Result<Self> {
        let emulator = Emulator::find(workspace)?;
        let cache = workspace.target.join("vm");
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        remove_stale(&cache);
        let init = workspace.static_program("xtask", "vm-init", false)?;
        Ok(Self {
            cache,
            init,
            emulator,
        })
    }

    /// Fetches the kernel unless it is in the cache.
    pub(crate) fn kernel(&self, name: &str, refresh: bool) -> Result<Kernel> {
        Kernel::get(&self.cache, name, refresh)
    }

    /// Boots a machine that runs the job, and hands each line of its output to `show`.
    pub(crate) fn run(&self, kernel: &Kernel, job: &Job, show: &mut dyn FnMut(&str)) -> Result<Run> {
        let accelerator = qemu::choose(&self.cache, || {
            let argv = ["/bin/busybox", "true"].map(str::to_owned).to_vec();
            let probe = Job {
                argv,
                timeout: Duration::from_secs(10),
                ..Job::default()
            };
            let (machine, _initrd) = self.machine(kernel, &probe, "probe")?;
            machine.try_kvm()
        })?;
        let (machine, _initrd) = self.machine(kernel, job, "run")?;
        machine.run(accelerator, show)
    }

    fn machine(&self, kernel: &Kernel, job: &Job, purpose: &str) -> Result<(Machine, Temporary)> {
        let mut image = Image::new(kernel, &self.init)?;
        for (path, source) in &job.programs {
            image.add_program(path, source)?;
        }
        for (path, source) in &job.files {
            let data = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
            image.add_file(path, &data);
        }
        for (name, value) in &job.env {
            image.env(name, value);
        }
        let archive = image.finish(job.argv.clone())?;
        let initrd = self.cache.join(format!("{purpose}-{}.cpio", std::process::id()));
        fs::write(&initrd, archive).with_context(|| format!("writing {}", initrd.display()))?;
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
            timeout: job.timeout,
            console: job.console,
        };
        Ok((machine, Temporary(initrd)))
    }
}

/// Archives of runs whose process was killed, and could not remove them.
fn remove_stale(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_suffix(".cpio").and_then(|name| name.rsplit_once('-'));
        if owner.is_some_and(|(_, pid)| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A file that goes with its owner.
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
    let when = if run.began {
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
