//! `ebusy demo`: a real EBUSY, made in a scratch mount namespace and explained by `watch`.
//!
//! The scene is this program again, as the command that `watch` runs. It works on tmpfs mounts of its own
//! namespace, so that nothing of it is left when its processes have ended.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{Signal, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Common, exit, watch::Watch};

/// Attempts of the scene: as containerd does them, long enough for `watch` to tell.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_millis(50);

/// Runs the scene under `watch`.
pub(super) fn run(common: &Common) -> Result<u8> {
    let own = std::env::current_exe().context("finding our own executable")?;
    let command: Vec<OsString> = vec![own.into(), "demo-scene".into()];
    Watch::for_demo(command).run(common)
}

/// Parts that the scene plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Mounts, and tries to unmount.
    Director,
    /// Opens a file through its own copy of the mount, which follows the host's.
    Holder,
    /// The same through a copy that does not.
    Bystander,
}

#[derive(Debug, clap::Args)]
pub(super) struct Scene {
    #[arg(value_enum, default_value_t = Part::Director)]
    part: Part,
    file: Option<PathBuf>,
}

impl Scene {
    pub(super) fn run(self) -> Result<u8> {
        set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with our parent")?;
        let name = match self.part {
            Part::Director => c"demo-umount",
            Part::Holder => c"demo-holder",
            Part::Bystander => c"demo-bystander",
        };
        rustix::thread::set_name(name).context("setting our name")?;
        match (self.part, self.file) {
            (Part::Director, _) => direct(),
            (part, Some(file)) => hold(part, &file),
            _ => bail!("this part of the demo needs a file"),
        }
    }
}

fn new_namespace(propagation: MountPropagationFlags) -> Result<()> {
    // SAFETY: the descriptor table stays shared with nobody; only the mount namespace changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .context("making a mount namespace (needs CAP_SYS_ADMIN)")?;
    mount_change("/", propagation | MountPropagationFlags::REC).context("setting the propagation of /")
}

fn direct() -> Result<u8> {
    new_namespace(MountPropagationFlags::PRIVATE)?;
    let base = ["/tmp", "/mnt", "/run"]
        .into_iter()
        .find(|path| Path::new(path).is_dir())
        .context("no /tmp")?;
    let scratch = |path: &Path| {
        mount("ebusy-demo", path, "tmpfs", MountFlags::empty(), None)
            .with_context(|| format!("mounting a tmpfs on {}", path.display()))
    };
    scratch(Path::new(base))?;
    mount_change(base, MountPropagationFlags::SHARED).context("sharing the parent mount")?;
    let target = Path::new(base).join("ebusy-demo");
    fs::create_dir(&target).context("making the mountpoint")?;
    scratch(&target)?;
    let file = target.join("app.log");
    fs::write(&file, "a line\n").context("writing a file")?;
    // A mount is known to `watch` some milliseconds after it was made; only then are opens on it recorded.
    sleep(Duration::from_millis(200));
    say(&format!(
        "a tmpfs is mounted on {}, below a shared mount",
        target.display()
    ));

    // They copy the namespace while the target is in it, and open the file through their own copy.
    let mut holder = play(Part::Holder, &file)?;
    let mut bystander = play(Part::Bystander, &file)?;
    say(&format!(
        "pid {} has {} open through its own slave copy of the mount",
        holder.id(),
        file.display()
    ));
    say(&format!(
        "pid {} has it open through a private copy, which does not block",
        bystander.id()
    ));
    let mut refused = 0;
    for _ in 0..ATTEMPTS {
        match unmount(&target, UnmountFlags::empty()) {
            Err(Errno::BUSY) => refused += 1,
            Ok(()) => bail!("the umount succeeded, though a slave copy is in use"),
            Err(error) => return Err(error).context("unmounting the target"),
        }
        sleep(PAUSE);
    }
    say(&format!(
        "umount {}: device or resource busy, {refused} times; the holder ends now",
        target.display()
    ));
    end(&mut holder)?;
    unmount(&target, UnmountFlags::empty()).context("unmounting the target after its holder has ended")?;
    say("umount succeeded");
    end(&mut bystander)?;
    Ok(exit::OK)
}

fn play(part: Part, file: &Path) -> Result<Child> {
    let name = if part == Part::Holder {
        "holder"
    } else {
        "bystander"
    };
    // Not by its path: the scene's tmpfs may hide it.
    let mut child = Command::new("/proc/self/exe")
        .args(["demo-scene", name])
        .arg(file)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting the {name}"))?;
    let mut ready = [0];
    let stdout = child.stdout.as_mut().context("the part has no stdout")?;
    stdout
        .read_exact(&mut ready)
        .with_context(|| format!("the {name} did not get ready"))?;
    Ok(child)
}

fn end(child: &mut Child) -> Result<()> {
    drop(child.stdin.take());
    child.wait().context("waiting for a part of the demo")?;
    Ok(())
}

fn hold(part: Part, file: &Path) -> Result<u8> {
    let slave = part == Part::Holder;
    new_namespace(if slave {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    })?;
    let held = fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
    std::io::stdout()
        .write_all(b"!")
        .and_then(|()| std::io::stdout().flush())
        .context("getting ready")?;
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("waiting for the end")?;
    drop(held);
    Ok(exit::OK)
}

fn say(what: &str) {
    crate::text::say::line(format_args!("demo: {what}"));
}
