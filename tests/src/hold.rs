//! The holder program's side: its arguments, its ready line, and its wait for the end.
//!
//! `hold-KIND [--mntns same|shared|slave|nested|user|private] PATH...`: it enters the namespace, takes its references on the
//! paths, prints one [`Ready`] line, and holds until its standard input ends. With `--wait` instead of paths it says
//! `{"waiting":true}` once it is in the namespace, and reads the paths from its standard input: a line of JSON, with arrays of bytes.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    claim::{Claim, Ready},
    namespace::{self, Namespace},
};

/// The task of a holder program.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where to take references.
    pub paths: Vec<PathBuf>,
    /// When the program began to take references, in nanoseconds since the epoch.
    pub began: u64,
    comm: String,
    mount_namespace: u32,
    moved_to: Option<u32>,
    mount_id: u32,
}

impl Setup {
    /// Reads the arguments and enters the namespace.
    pub fn from_args() -> Result<Self> {
        let mut namespace = Namespace::Same;
        let mut wait = false;
        let mut paths = Vec::new();
        let mut arguments = std::env::args_os().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--mntns" {
                let value = arguments.next().context("--mntns needs a value")?;
                namespace = value.to_str().context("--mntns needs a name")?.parse()?;
            } else if argument == "--wait" {
                wait = true;
            } else {
                paths.push(PathBuf::from(argument));
            }
        }
        namespace.enter().context("enter a mount namespace")?;
        if wait {
            println!("{{\"waiting\":true}}");
            let bytes: Vec<Vec<u8>> = serde_json::from_slice(&read_line()?)?;
            paths = bytes
                .into_iter()
                .map(|path| OsString::from_vec(path).into())
                .collect();
        }
        let Some(first) = paths.first() else {
            bail!("a path is needed")
        };
        // Find out everything before the reference is taken: afterwards `/proc` may be out of reach, and a look at the
        // path would take another reference.
        Ok(Self {
            comm: command_name()?,
            mount_namespace: namespace::current()?,
            moved_to: None,
            mount_id: mount_id(first)?,
            began: now(),
            paths,
        })
    }

    /// The first path.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.paths[0]
    }

    /// A descriptor that was opened just now, on the first path.
    pub fn opened(&self, file: impl AsFd, access: &str) -> Claim {
        Claim::fd(file.as_fd().as_raw_fd() as u32, access).opened_since(self.began)
    }

    /// Goes into a mount namespace of its own, away from the mount.
    pub fn move_to(&mut self, namespace: Namespace) -> Result<()> {
        namespace.enter()?;
        self.has_moved()
    }

    /// Updates the mount of the first path after mounts have changed.
    pub fn look_again(&mut self) -> Result<()> {
        self.mount_namespace = namespace::current()?;
        self.mount_id = mount_id(self.path())?;
        Ok(())
    }

    /// Sets the namespace in which the process holds, if that is not the mount's.
    pub fn has_moved(&mut self) -> Result<()> {
        self.moved_to = Some(namespace::current()?);
        Ok(())
    }

    /// Prints why this cannot be held here, so that the test is skipped.
    pub fn skip(&self, reason: &str) -> Result<()> {
        println!("{}", serde_json::json!({ "skip": reason }));
        wait_for_end()
    }

    /// Prints the claims, and returns when the test wants them released.
    pub fn hold(&self, claims: impl Into<Vec<Claim>>) -> Result<()> {
        let ready = Ready {
            ready: true,
            pid: std::process::id(),
            comm: self.comm.clone(),
            mount_namespace: self.mount_namespace,
            moved_to: self.moved_to,
            mount_id: self.mount_id,
            claims: claims.into(),
        };
        let mut line = serde_json::to_string(&ready)?;
        line.push('\n');
        std::io::stdout().write_all(line.as_bytes())?;
        wait_for_end()
    }
}

/// The command name; it may end with a newline of its own.
fn command_name() -> Result<String> {
    let mut name = fs::read_to_string("/proc/self/comm")?;
    name.pop();
    Ok(name)
}

/// The id of the mount that a path is on, or will be once it is made.
fn mount_id(path: &Path) -> Result<u32> {
    let existing = if path.symlink_metadata().is_ok() {
        Some(path)
    } else {
        path.parent()
    };
    let existing = existing.context("a path has a parent")?;
    namespace::mount_id(existing).with_context(|| existing.display().to_string())
}

/// Nanoseconds since the epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// Nanoseconds of the boot clock.
#[must_use]
pub fn boot_clock() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Blocks until standard input ends.
pub fn wait_for_end() -> Result<()> {
    let mut rest = [0_u8; 64];
    while std::io::stdin().read(&mut rest)? > 0 {}
    Ok(())
}

/// Reads one line without reading ahead.
fn read_line() -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0_u8; 1];
    while std::io::stdin().read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(line)
}
