//! Looks from outside at all that ebusy has.

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

/// The mounts that nobody of ebusy is to be on, by number: no path is walked to find out. Those are the mounts and their
/// copies in other namespaces.
fn forbidden(scratches: &[Scratch], holdings: &[Holding]) -> BTreeSet<u32> {
    let copies = holdings.iter().map(|holding| holding.claimed.ready.mount_id);
    scratches.iter().map(Scratch::mount_id).chain(copies).collect()
}

/// A process and all its descendants: by parents, as processes and threads come.
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

/// The mount namespaces where ebusy may be: that in which it was started, and the host's.
fn allowed_namespaces() -> [String; 2] {
    let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_default();
    [link("self"), link("1")].map(|link| link.to_string_lossy().into_owned())
}

/// What a process has on one of the mounts. Its `fdinfo` names mounts by number; the links of its directories and its
/// mappings are texts, which are read and not followed. A mount namespace keeps all its mounts, so that being in one or
/// having it open counts as well.
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

/// Whether a process has one of these names, or one of these arguments.
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
    /// Starts to look whether a process is on mounts, or on what holders have. `foreign` are names of children that
    /// are not ebusy's own, or an argument that they have: what it was asked to run.
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
                    // It may have become another program meanwhile.
                    if problems.is_empty() || is_one_of(pid, foreign) {
                        continue;
                    }
                    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    let problems = problems.into_iter();
                    found.extend(problems.map(|problem| format!("{} {problem}", comm.trim())));
                }
                // Who has ended has nothing any more.
                looks += usize::from(fs::read_link(format!("/proc/{pid}/exe")).is_ok());
                pause::takes(Duration::from_millis(1), "it looks a thousand times a second");
            }
            (looks, found)
        });
        Self { stop, thread }
    }

    /// It has seen nothing; how often it has looked at the process while it ran.
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
