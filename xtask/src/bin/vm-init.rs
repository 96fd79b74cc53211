//! The first process of a test machine: makes the machine look like a host, says that it is ready on the second serial
//! port, reads a job from there, runs its program, and reports the status. The host ends the machine, and may have
//! saved it when it was ready, to continue from there for another job.
//!
//! Built static; it is `/init` of an initramfs. The root of an initramfs can be neither unmounted nor pivoted and
//! has no parent, so everything moves to a tmpfs first: `/` is then an ordinary, shared mount, as on a host.

use std::{
    convert::Infallible,
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, Read as _, Write as _},
    os::unix::{
        fs::{OpenOptionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_move},
    process::{WaitOptions, chdir, chroot, wait},
    system::{RebootCommand, finit_module, reboot, sethostname, uname},
    termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr},
};

use protocol::{BEGIN, Config, DIRECTORY, ERROR, EXIT, MARK, MODULES, READY, RUN, SIGNAL};

#[path = "../vm/protocol.rs"]
mod protocol;

const NEW_ROOT: &str = "/newroot";
const RESULTS: &str = "/dev/ttyS1";

/// File system, where, mount data. Those from `OPTIONAL` on may be missing in a kernel.
const MOUNTS: [(&str, &str, &CStr); 10] = [
    ("proc", "/proc", c""),
    ("sysfs", "/sys", c""),
    ("devtmpfs", "/dev", c""),
    ("tmpfs", "/tmp", c"mode=1777"),
    ("tmpfs", "/run", c"mode=755"),
    ("tmpfs", "/dev/shm", c"mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", c""),
    ("tracefs", "/sys/kernel/tracing", c""),
    ("bpf", "/sys/fs/bpf", c""),
    ("securityfs", "/sys/kernel/security", c""),
];
const OPTIONAL: usize = 5;

fn main() {
    if std::process::id() != 1 {
        eprintln!("vm-init: this is the first process of a test machine; `cargo xtask vm` starts it");
        std::process::exit(2);
    }
    let Err(err) = run();
    eprintln!("{MARK}{ERROR}{err:#}");
    if let Ok(mut results) = open_results() {
        let _ = writeln!(results, "{MARK}{ERROR}{err:#}");
        let _ = tcdrain(&results);
    }
    power_off();
}

fn run() -> Result<Infallible> {
    move_root().context("moving the root to a tmpfs")?;
    for (index, (kind, target, data)) in MOUNTS.into_iter().enumerate() {
        let mounted = create_dir(target)
            .and_then(|()| mount(kind, target, kind, MountFlags::empty(), data).map_err(io::Error::from));
        if let Err(err) = mounted
            && index < OPTIONAL
        {
            bail!("mounting {kind} on {target}: {err}");
        }
    }
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("making / shared")?;
    let _ = sethostname(b"ebusy-vm");

    let modules = fs::read_to_string(MODULES).with_context(|| format!("reading {MODULES}"))?;
    for module in modules.lines() {
        let path = Path::new(DIRECTORY).join(module);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        finit_module(&file, c"", 0).with_context(|| format!("loading the module {module}"))?;
    }
    // Conveniences of a host: a failure shows in the tests that need them.
    for command in [
        ["busybox", "--install", "-s"].as_slice(),
        &["ip", "link", "set", "lo", "up"],
    ] {
        let _ = Command::new(Path::new("/bin").join(command[0]))
            .args(&command[1..])
            .status();
    }
    let mut results = open_results().context("opening the result port")?;
    let release = uname();
    writeln!(results, "{MARK}{READY}{}", release.release().to_string_lossy())?;
    let job = read_job(&mut results).context("reading the job")?;
    run_program(&job, results)
}

/// Reads up to the line that ends a job.
fn read_job(port: &mut File) -> Result<Config> {
    let end = format!("\n{RUN}\n");
    // Starts as if a line had ended, for a job that consists of that line alone.
    let mut bytes = vec![b'\n'];
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        port.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Config::parse(str::from_utf8(&bytes[1..])?).map_err(anyhow::Error::msg)
}

fn run_program(config: &Config, mut results: File) -> Result<Infallible> {
    let [program, args @ ..] = config.argv.as_slice() else {
        bail!("the job names no program")
    };
    writeln!(results, "{MARK}{BEGIN}")?;

    // Through a pipe: programs write otherwise to a terminal.
    let (output, input) = io::pipe()?;
    let child = Command::new(program)
        .args(args)
        .envs(config.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/tmp")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let copied = copy(output, results.try_clone()?);
    // The first process inherits every orphan, and must reap them all.
    let status = loop {
        if let Some((pid, status)) = wait(WaitOptions::empty()).context("waiting for the program")?
            && pid.as_raw_nonzero().get().unsigned_abs() == child.id()
        {
            break status;
        }
    };
    // Until everything is written, or the leftover processes of the program print nothing more.
    while copied.recv_timeout(Duration::from_millis(500)).is_ok() {}
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => writeln!(results, "{MARK}{EXIT}{code}")?,
        (None, Some(signal)) => writeln!(results, "{MARK}{SIGNAL}{signal}")?,
        (None, None) => bail!("the program ended in an unknown way: {status:?}"),
    }
    tcdrain(&results)?;
    power_off();
}

/// Copies to the port; sends a message for each piece, and hangs up at the end.
fn copy(mut from: PipeReader, mut to: File) -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                return;
            }
            // Nobody listens before the program has ended; an unbounded channel of empty messages costs little.
            let _ = sender.send(());
        }
    });
    receiver
}

/// As `switch_root` does: everything moves to a new mount, which then takes the place of the old root.
fn move_root() -> Result<()> {
    create_dir(NEW_ROOT)?;
    mount(
        "tmpfs",
        NEW_ROOT,
        "tmpfs",
        MountFlags::empty(),
        c"mode=755,size=80%",
    )?;
    for entry in fs::read_dir("/")? {
        let path = entry?.path();
        if path != Path::new(NEW_ROOT) {
            move_tree(&path, &Path::new(NEW_ROOT).join(path.strip_prefix("/")?))
                .with_context(|| format!("moving {}", path.display()))?;
        }
    }
    chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            move_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        // Device nodes come back with devtmpfs.
        return Ok(());
    }
    fs::remove_file(from)
}

fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

/// Opened so that it does not become a controlling terminal, and in raw mode both ways.
fn open_results() -> Result<File> {
    const O_NOCTTY: i32 = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NOCTTY)
        .open(RESULTS)?;
    let mut modes = tcgetattr(&port)?;
    modes.make_raw();
    tcsetattr(&port, OptionalActions::Now, &modes)?;
    Ok(port)
}

fn power_off() -> ! {
    let _ = reboot(RebootCommand::PowerOff);
    // Without ACPI; the emulator's options make it end at a restart.
    let _ = reboot(RebootCommand::Restart);
    loop {
        thread::park();
    }
}
