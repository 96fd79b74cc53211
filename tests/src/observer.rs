//! Looks from outside at all references of ebusy.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{holder::Holding, pause, scratch::Scratch};

/// The mounts that no process of ebusy may use, by number, so that the check walks no path: the mounts and their copies
/// in other namespaces.
fn forbidden(scratches: &[Scratch], holdings: &[Holding]) -> BTreeSet<u32> {
    let copies = holdings.iter().map(|holding| holding.claimed.ready.mount_id);
    scratches.iter().map(Scratch::mount_id).chain(copies).collect()
}

/// A process and all its descendants, found by their parents while processes and threads come and go.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut index = 0;
    while let Some(pid) = found.get(index).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        index += 1;
    }
    found
}

/// The mount namespaces that ebusy may be in: the one where it was started, and the host's.
fn allowed_namespaces() -> [String; 2] {
    let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_default();
    [link("self"), link("1")].map(|link| link.to_string_lossy().into_owned())
}

/// Lists the references of a process on one of the mounts. Its `fdinfo` names mounts by number; the links of its
/// directories and mappings are read as text and not followed. A mount namespace keeps all its mounts, so being in one
/// or having it open counts as well.
fn footprint(
    pid: u32,
    forbidden: &BTreeSet<u32>,
    directories: &[PathBuf],
    namespaces: &[String],
) -> Vec<String> {
    let mut found = Vec::new();
    let is_foreign = |link: &Path| {
        let link = link.to_string_lossy();
        link.starts_with("mnt:") && !namespaces.iter().any(|allowed| *allowed == link)
    };
    let entries = |name: &str| {
        fs::read_dir(format!("/proc/{pid}/{name}"))
            .into_iter()
            .flatten()
            .flatten()
    };
    for entry in entries("fdinfo") {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let mount = text
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))
            .and_then(|id| id.trim().parse().ok());
        let link = fs::read_link(format!("/proc/{pid}/fd/{}", entry.file_name().display()));
        let is_foreign = link.as_deref().is_ok_and(is_foreign);
        if is_foreign || mount.is_some_and(|id| forbidden.contains(&id)) {
            found.push(format!("fd {}: {link:?}", entry.file_name().display()));
        }
    }
    let is_on = |path: &OsStr| {
        directories
            .iter()
            .any(|directory| PathBuf::from(path).starts_with(directory))
    };
    // Threads may have directories and namespaces of their own; descriptors and mappings are those of all.
    for task in entries("task") {
        for name in ["cwd", "root", "exe", "ns/mnt"] {
            if let Ok(link) = fs::read_link(task.path().join(name))
                && (is_on(link.as_os_str()) || is_foreign(&link))
            {
                found.push(format!("{name}: {}", link.display()));
            }
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines() {
        if line
            .split_whitespace()
            .nth(5)
            .is_some_and(|path| is_on(path.as_ref()))
        {
            found.push(format!("mapping: {line}"));
        }
    }
    found
}

/// True if a process has one of these names or arguments.
fn is_one_of(pid: u32, names: &[&str]) -> bool {
    let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (comm, command) = (text("comm"), text("cmdline"));
    let is = |name: &&str| comm.starts_with(*name) || command.split('\0').any(|part| part == *name);
    names.iter().any(is)
}

/// Looks at a process and its descendants again and again.
#[derive(Debug)]
pub struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, BTreeSet<String>)>,
}

impl Observer {
    /// Starts to check if a process uses the mounts, or files that holders have. `foreign` are names or arguments of
    /// children that are not ebusy's own: commands that it was asked to run.
    #[must_use]
    pub fn of(
        pid: u32,
        scratches: &[Scratch],
        holdings: &[Holding],
        foreign: &'static [&'static str],
    ) -> Self {
        let forbidden = forbidden(scratches, holdings);
        let directories: Vec<_> = scratches
            .iter()
            .map(|scratch| scratch.path().to_owned())
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let namespaces = allowed_namespaces();
        let thread = thread::spawn(move || {
            let (mut looks, mut found) = (0, BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                for pid in family(pid) {
                    if is_one_of(pid, foreign) {
                        continue;
                    }
                    let problems = footprint(pid, &forbidden, &directories, &namespaces);
                    // It may have executed another program meanwhile.
                    if problems.is_empty() || is_one_of(pid, foreign) {
                        continue;
                    }
                    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    let problems = problems.into_iter();
                    found.extend(problems.map(|problem| format!("{} {problem}", comm.trim())));
                }
                // A process that has ended has no references any more.
                looks += usize::from(fs::read_link(format!("/proc/{pid}/exe")).is_ok());
                pause::takes(Duration::from_millis(1), "it looks a thousand times a second");
            }
            (looks, found)
        });
        Self { stop, thread }
    }

    /// Asserts that it has seen nothing; returns how often it looked at the running process.
    pub fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, found) = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the observer panicked"))?;
        ensure!(
            found.is_empty(),
            "ebusy is on a mount that it watches: {found:#?}"
        );
        Ok(looks)
    }
}
