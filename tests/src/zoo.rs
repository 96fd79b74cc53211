//! The table of holder programs: what to start them with, and where they block.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    holder::{Holding, program},
    namespace::Namespace,
    scratch::Scratch,
};

/// A kind of reference, and the program that takes it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The name in the test's name.
    pub name: &'static str,
    /// The program.
    pub program: &'static str,
    /// Its arguments, on the mount; `.` is its root.
    pub paths: &'static [&'static str],
    /// Whether it blocks through a propagated copy, too.
    pub copy_blocks: bool,
    /// Whether it uses a private copy so that it keeps it busy.
    pub bystander: bool,
}

const fn row(name: &'static str, program: &'static str, paths: &'static [&'static str]) -> Row {
    Row {
        name,
        program,
        paths,
        copy_blocks: true,
        bystander: true,
    }
}

/// All kinds.
pub const ROWS: &[Row] = &[
    row("fd", "hold-fd", &["file"]),
    row("fd_upper", "hold-fd", &["upper"]),
    row("fd_write", "hold-fd-write", &["new"]),
    row("fd_path", "hold-fd-path", &["file"]),
    row("fd_path_root", "hold-fd-path", &["."]),
    row("fd_directory", "hold-fd-directory", &["dir"]),
    row("fd_directory_root", "hold-fd-directory", &["."]),
    row("fd_deleted", "hold-fd-deleted", &["upper"]),
    row("fd_twice", "hold-fd-twice", &["file"]),
    row("fd_shared", "hold-fd-shared", &["file"]),
    row("fd_mmap", "hold-fd-mmap", &["file"]),
    row("mmap", "hold-mmap", &["file"]),
    row("mmap_thrice", "hold-mmap-thrice", &["file"]),
    row("mmap_files", "hold-mmap-files", &["file", "second", "third"]),
    row("cwd", "hold-cwd", &["dir"]),
    row("root", "hold-root", &["."]),
    row("root_cwd", "hold-root-cwd", &["."]),
    row("exe", "hold-exe", &["hold-idle"]),
    row("thread_cwd", "hold-thread-cwd", &["dir"]),
    row("thread_fd", "hold-thread-fd", &["file"]),
    // The kernel skips a copy that has mounts of its own.
    Row {
        copy_blocks: false,
        bystander: false,
        ..row("child_mount", "hold-child-mount", &["dir"])
    },
];

impl Row {
    /// Takes the references.
    pub fn hold(&self, scratch: &Scratch, namespace: Namespace) -> Result<Holding> {
        Holding::start(self.program, namespace, &self.prepare(scratch)?)
    }

    /// Takes the references as soon as the namespace is there.
    pub fn hold_at_once(&self, scratch: &Scratch, namespace: Namespace) -> Result<Holding> {
        Holding::start_at_once(self.program, namespace, &self.prepare(scratch)?)
    }

    fn prepare(&self, scratch: &Scratch) -> Result<Vec<PathBuf>> {
        for name in self.paths {
            if name.starts_with("hold-") {
                scratch.install(&program(name)?)?;
            }
        }
        Ok(self.paths.iter().map(|name| scratch.join(name)).collect())
    }
}
