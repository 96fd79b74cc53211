//! Holder programs report the references that they have taken; the tests compare ebusy's answer with these claims.

use serde::{Deserialize, Serialize};

/// The line that a holder program prints once it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The holder's process id.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// The number of the namespace that the mount is in.
    pub mount_namespace: u32,
    /// The number of the namespace that the holder is in, if it differs.
    #[serde(default)]
    pub moved_to: Option<u32>,
    /// The id of the mount that its first path is on, as its namespace has it.
    pub mount_id: u32,
    /// One for each entry that ebusy must report.
    pub claims: Vec<Claim>,
}

/// One holder entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// `fd`, `cwd`... as in ebusy's JSON.
    pub kind: String,
    /// Other ways in which the same references are used.
    pub also: Vec<String>,
    /// The indices of the program's path arguments that ebusy may report for it.
    pub arguments: Vec<usize>,
    /// The kernel's references on a file system of its own.
    pub refs: u64,
    /// The kernel's references on overlayfs, where an open regular file has a backing file.
    pub overlay_refs: u64,
    /// All processes that share it; empty if no process does.
    pub owners: Vec<Owner>,
    /// The file is deleted.
    pub deleted: bool,
    /// Access of the descriptor.
    pub access: Option<String>,
    /// The expected `held_by`, if the holder program knows it.
    #[serde(default)]
    pub held_by: Option<String>,
    /// It was opened between these two times, in nanoseconds since the epoch.
    pub opened: Option<(u64, u64)>,
    /// The process that opened it, if that is not its owner.
    #[serde(default)]
    pub opened_by: Option<u32>,
}

/// A process, one of its threads, or one of its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Thread id, where the reference is a thread's own.
    pub tid: Option<u32>,
    /// File descriptor.
    pub fd: Option<u32>,
}

impl Owner {
    /// A descriptor of a process.
    #[must_use]
    pub fn descriptor(pid: u32, fd: u32) -> Self {
        let (tid, fd) = (None, Some(fd));
        Self { pid, tid, fd }
    }
}

impl Claim {
    /// One reference of the calling process, on its first path argument.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            also: Vec::new(),
            arguments: vec![0],
            refs: 1,
            overlay_refs: 1,
            owners: vec![Owner {
                pid: std::process::id(),
                tid: None,
                fd: None,
            }],
            deleted: false,
            access: None,
            held_by: None,
            opened: None,
            opened_by: None,
        }
    }

    /// An open file description of the calling process.
    #[must_use]
    pub fn fd(fd: u32, access: &str) -> Self {
        let mut claim = Self::new("fd");
        claim.owners[0].fd = Some(fd);
        claim.access = Some(access.to_owned());
        claim
    }

    /// An open file description of another process.
    #[must_use]
    pub fn fd_of(pid: u32, fd: u32, access: &str) -> Self {
        let mut claim = Self::fd(fd, access);
        claim.owners[0].pid = pid;
        claim
    }

    /// Sets the expected `held_by`.
    #[must_use]
    pub fn held_by(mut self, name: impl Into<String>) -> Self {
        self.held_by = Some(name.into());
        self
    }

    /// No process has it.
    #[must_use]
    pub fn without_process(mut self) -> Self {
        self.owners.clear();
        self
    }

    /// It is an open regular file: overlayfs keeps a backing file for it.
    #[must_use]
    pub fn regular(mut self) -> Self {
        self.overlay_refs = 2 * self.refs;
        self
    }

    /// It was opened between `began` and now.
    #[must_use]
    pub fn opened_since(mut self, began: u64) -> Self {
        self.opened = Some((began, crate::hold::now()));
        self
    }

    /// The kernel's references on a file system.
    #[must_use]
    pub fn refs_on(&self, overlay: bool) -> u64 {
        if overlay { self.overlay_refs } else { self.refs }
    }
}
