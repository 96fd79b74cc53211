//! The table of holder programs: how to start them, and where they block.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    holder::{Holding, program},
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    steps::{references, until_references},
};

/// A kind of reference, and the program that takes it.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about a holder program"
)]
pub struct Row {
    /// The name in the test's name.
    pub name: &'static str,
    /// The program.
    pub program: &'static str,
    /// Its arguments, on the mount; `.` is its root.
    pub paths: &'static [&'static str],
    /// It blocks through a propagated copy, too.
    pub copy_blocks: bool,
    /// It keeps a private copy busy.
    pub bystander: bool,
    /// The file systems that it works on.
    pub file_systems: &'static [FileSystem],
    /// The kernel drops its reference some time after the holder has released it.
    pub lags: bool,
    /// No other test may run meanwhile.
    pub alone: bool,
}

const fn row(name: &'static str, program: &'static str, paths: &'static [&'static str]) -> Row {
    Row {
        name,
        program,
        paths,
        copy_blocks: true,
        bystander: true,
        file_systems: &[FileSystem::Tmpfs, FileSystem::Overlay],
        lags: false,
        alone: false,
    }
}

/// A row that is run on every overlay.
const fn row_on_overlays(name: &'static str, program: &'static str, paths: &'static [&'static str]) -> Row {
    Row {
        file_systems: &[FileSystem::Tmpfs, FileSystem::Overlay, FileSystem::OverlayOfTwo],
        ..row(name, program, paths)
    }
}

/// All kinds.
pub const ROWS: &[Row] = &[
    row_on_overlays("fd", "hold-fd", &["file"]),
    row_on_overlays("fd_upper", "hold-fd", &["upper"]),
    row("fd_write", "hold-fd-write", &["new"]),
    Row {
        file_systems: &[FileSystem::Fuse],
        ..row("fd_of_fuse", "hold-fd", &["file"])
    },
    row("fd_path", "hold-fd-path", &["file"]),
    row("fd_path_root", "hold-fd-path", &["."]),
    row("fd_directory", "hold-fd-directory", &["dir"]),
    row("fd_directory_root", "hold-fd-directory", &["."]),
    row("fd_deleted", "hold-fd-deleted", &["upper"]),
    row("fd_twice", "hold-fd-twice", &["file"]),
    row("fd_shared", "hold-fd-shared", &["file"]),
    row("fd_lease", "hold-fd-lease", &["file"]),
    row("fd_open_tree", "hold-fd-open-tree", &["."]),
    row("fd_clone_files", "hold-fd-clone-files", &["file"]),
    row("fd_zombie_leader", "hold-fd-zombie-leader", &["file"]),
    row("fd_stopped", "hold-fd-stopped", &["file"]),
    row("fd_traced", "hold-fd-traced", &["file"]),
    row("fd_vfork", "hold-fd-vfork", &["file"]),
    row("fd_pid_namespace", "hold-fd-pid-namespace", &["file"]),
    row("fd_moved", "hold-fd-moved", &["file"]),
    row("fd_mmap", "hold-fd-mmap", &["file"]),
    row_on_overlays("mmap", "hold-mmap", &["file"]),
    row("mmap_thrice", "hold-mmap-thrice", &["file"]),
    row("mmap_files", "hold-mmap-files", &["file", "second", "third"]),
    row_on_overlays("cwd", "hold-cwd", &["dir"]),
    row("root", "hold-root", &["."]),
    row("root_cwd", "hold-root-cwd", &["."]),
    row_on_overlays("exe", "hold-exe", &["hold-idle"]),
    row("thread_cwd", "hold-thread-cwd", &["dir"]),
    row("thread_fd", "hold-thread-fd", &["file"]),
    row("unix_listener", "hold-unix-listener", &["socket"]),
    row("unix_accepted", "hold-unix-accepted", &["socket"]),
    row("unix_embryo", "hold-unix-embryo", &["socket"]),
    row("unix_dgram_unlinked", "hold-unix-dgram-unlinked", &["socket"]),
    row("unix_netns", "hold-unix-netns", &["socket"]),
    row("scm_rights", "hold-scm-rights", &["file"]),
    row("scm_nested", "hold-scm-nested", &["file", "second"]),
    // Closing any UNIX socket meanwhile ends it.
    Row {
        alone: true,
        lags: true,
        ..row("scm_cycle", "hold-scm-cycle", &["file"])
    },
    // A ring is taken down by a work item, after its last reference is gone.
    Row {
        lags: true,
        ..row("uring_fixed", "hold-uring-fixed", &["file"])
    },
    Row {
        lags: true,
        ..row("uring_fixed_fd", "hold-uring-fixed-fd", &["file"])
    },
    Row {
        lags: true,
        ..row("uring_mmap", "hold-uring-mmap", &["file"])
    },
    Row {
        lags: true,
        ..row("uring_request", "hold-uring-request", &["fifo"])
    },
    Row {
        lags: true,
        ..row("uring_queued", "hold-uring-queued", &["file"])
    },
    Row {
        lags: true,
        ..row("uring_teardown", "hold-uring-teardown", &["file"])
    },
    // A kernel thread ends the waiting request, which keeps its file for another tick.
    Row {
        lags: true,
        ..row("aio_poll", "hold-aio-poll", &["fifo"])
    },
    Row {
        lags: true,
        file_systems: &[FileSystem::Fuse],
        ..row("aio_sync", "hold-aio-sync", &["never-synced", "release"])
    },
    row("fanotify_event", "hold-fanotify-event", &["file"]),
    row("fanotify_perm", "hold-fanotify-perm", &["file"]),
    row("fifo_open", "hold-fifo-open", &["fifo"]),
    row("stat_link", "hold-stat-link", &["link"]),
    Row {
        file_systems: &[FileSystem::Fuse],
        ..row("stat_stuck", "hold-stat-stuck", &[".", "never"])
    },
    row("close_range", "hold-close-range", &["file"]),
    Row {
        file_systems: &[FileSystem::Overlay],
        lags: true,
        ..row("acct", "hold-acct", &["upper"])
    },
    // The kernel skips a copy that has mounts of its own.
    Row {
        copy_blocks: false,
        bystander: false,
        ..row_on_overlays("child_mount", "hold-child-mount", &["dir"])
    },
    Row {
        copy_blocks: false,
        bystander: false,
        ..row("child_mount_used", "hold-child-mount-used", &["dir"])
    },
    Row {
        lags: true,
        ..row("loop", "hold-loop", &["file"])
    },
    Row {
        file_systems: &[FileSystem::Ext2],
        ..row("swap", "hold-swap", &["swap"])
    },
    row("swap_device", "hold-swap-device", &["swap"]),
    // The caches are flushed as a whole, and their entries go after a grace period.
    Row {
        alone: true,
        lags: true,
        file_systems: &[FileSystem::Tmpfs],
        ..row("nfs_export", "hold-nfs-export", &["dir"])
    },
    row("uprobe_tracefs", "hold-uprobe-tracefs", &["file"]),
    Row {
        lags: true,
        ..row("uprobe_perf", "hold-uprobe-perf", &["file"])
    },
    row("binfmt_misc", "hold-binfmt", &["hold-idle"]),
];

impl Row {
    /// Releases a mount, and waits until the kernel has done so as well.
    pub fn release(&self, scratch: &Scratch, holding: Holding) -> Result<()> {
        let overlay = scratch.file_system().is_overlay();
        let claims = holding.claimed.ready.claims.iter();
        let refs: u64 = claims.map(|claim| claim.refs_on(overlay)).sum();
        let before = if self.lags { references(scratch)? } else { 0 };
        holding.release()?;
        if before > 0 {
            until_references(scratch, before.saturating_sub(refs)).with_context(|| self.program)?;
        }
        Ok(())
    }

    /// Takes the references.
    pub fn hold(&self, scratch: &Scratch, namespace: Namespace) -> Result<Holding> {
        Holding::start(self.program, namespace, &self.prepare(scratch)?)
    }

    /// Takes the references on files in a directory of its own, where no other row disturbs it; at once, or as soon as
    /// every watcher of opens knows the mount.
    pub fn hold_apart(
        &self,
        scratch: &Scratch,
        namespace: Namespace,
        directory: &str,
        at_once: bool,
    ) -> Result<Holding> {
        scratch.furnish(directory)?;
        let mut paths = Vec::new();
        for name in self.paths {
            paths.push(match *name {
                "." => scratch.path().to_owned(),
                name if name.starts_with("hold-") => scratch.install_in(directory, &program(name)?)?,
                name => scratch.join(directory).join(name),
            });
        }
        if at_once {
            Holding::start_at_once(self.program, namespace, &paths)
        } else {
            Holding::start(self.program, namespace, &paths)
        }
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
