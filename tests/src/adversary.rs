//! The test's side of `adversary` ([`holders`](crate::holders)): a user without privilege who does anything that may
//! disturb ebusy.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
};
use tempfile::TempDir;

use crate::{
    harness,
    holder::{Helper, PATIENCE, Skip, program},
    pause,
};

/// Default of calls per second: ebusy keeps up with as many on a loaded machine, and on an emulated one.
const RATE: u64 = 50;
const RATE_IN_MACHINE: u64 = 30;
/// Its user.
pub const NOBODY: u32 = 65534;

/// The adversary's options, set by environment variables; a failed run prints its seed.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `EBUSY_ADVERSARY_SEED`: seed of its random choices.
    pub seed: u64,
    /// `EBUSY_ADVERSARY_RATE`: calls per second that ebusy sees; 0 for as many as possible.
    pub rate: u64,
    /// `EBUSY_ADVERSARY_SECONDS`: how long it runs.
    pub time: Duration,
}

impl Settings {
    /// Reads the environment; the defaults are those of a run of all tests.
    pub fn of_environment() -> Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text}: a number")),
            Err(_) => Ok(default),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let (seconds, rate) = if harness::in_machine() {
            (15, RATE_IN_MACHINE)
        } else {
            (30, RATE)
        };
        Ok(Self {
            seed: number("EBUSY_ADVERSARY_SEED", u64::from(now.subsec_nanos()))?,
            rate: number("EBUSY_ADVERSARY_RATE", rate)?,
            time: Duration::from_secs(number("EBUSY_ADVERSARY_SECONDS", seconds)?),
        })
    }
}

/// A running adversary; dropping this value removes everything that it made.
#[derive(Debug)]
pub struct Adversary {
    helper: Helper,
    // After the processes.
    _cgroup: Option<Cgroup>,
    _fuse: Option<Fuse>,
    _directory: TempDir,
}

impl Adversary {
    /// Starts it; a [`Skip`] where it may have no namespaces.
    pub fn start(settings: Settings) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-adversary-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777))?;
        let fuse = Fuse::new(directory.path()).ok();
        let cgroup = Cgroup::new(&directory.path().join("cgroup")).ok();
        let mut command = Command::new(program("adversary")?);
        command
            .args([settings.seed, settings.rate].map(|number| number.to_string()))
            .arg(directory.path());
        if let Some(cgroup) = &cgroup {
            command.arg(&cgroup.path);
        }
        let helper = Helper::from_command(&mut command)?;
        let line = helper.line()?;
        if line != "ready" {
            return Err(Skip::because(&line).into());
        }
        Ok(Self {
            helper,
            _cgroup: cgroup,
            _fuse: fuse,
            _directory: directory,
        })
    }

    /// Ends it; returns how often it made each call, and how often that failed.
    pub fn finish(mut self) -> Result<BTreeMap<String, [u64; 2]>> {
        self.helper.end_input();
        let counts = serde_json::from_str(&self.helper.line()?)?;
        let Self {
            helper,
            _cgroup: cgroup,
            _fuse: fuse,
            _directory: directory,
        } = self;
        helper.finish()?;
        drop((cgroup, fuse, directory));
        Ok(counts)
    }
}

/// `/dev/fuse` open to everybody, as udev makes it, in the namespace of the test: here it may belong to the superuser
/// alone.
#[derive(Debug)]
struct Fuse;

impl Fuse {
    fn new(directory: &Path) -> Result<Self> {
        let node = directory.join("fuse");
        let device = fs::metadata("/dev/fuse")?.rdev();
        let everybody = Mode::from_raw_mode(0o666);
        mknodat(CWD, &node, FileType::CharacterDevice, everybody, device)?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
        mount_bind(&node, "/dev/fuse")?;
        Ok(Self)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = unmount("/dev/fuse", UnmountFlags::DETACH);
    }
}

/// A cgroup that is delegated to it.
#[derive(Debug)]
struct Cgroup {
    tree: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    fn new(tree: &Path) -> Result<Self> {
        fs::create_dir(tree)?;
        fs::set_permissions(tree, fs::Permissions::from_mode(0o755))?;
        mount("none", tree, "cgroup2", MountFlags::empty(), None)?;
        let cgroup = Self {
            tree: tree.to_owned(),
            path: tree.join(format!("ebusy-adversary-{}", std::process::id())),
        };
        fs::create_dir(&cgroup.path)?;
        for path in [cgroup.path.clone(), cgroup.path.join("cgroup.procs")] {
            chown(path, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(cgroup)
    }

    fn remove(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)?.flatten() {
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path())?;
            }
        }
        Ok(fs::remove_dir(&self.path)?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last processes have been killed, but may not be gone.
        let _ = pause::until(PATIENCE, || Ok(self.remove().ok()));
        let _ = unmount(&self.tree, UnmountFlags::DETACH);
    }
}

/// Text for a terminal ends lines, and does nothing else there.
pub fn is_only_text(what: &str, bytes: &[u8]) -> Result<()> {
    let text = str::from_utf8(bytes).with_context(|| format!("{what} is UTF-8"))?;
    let active = text.lines().find(|line| line.chars().any(char::is_control));
    ensure!(active.is_none(), "{what}: {active:?}");
    Ok(())
}
