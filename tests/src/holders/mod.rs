//! The programs that tests start: one executable, which selects the program by its own name.
//!
//! A **holder program** takes its references as [`hold`](crate::hold) describes; the others are described where they are.

use std::{path::Path, process::ExitCode};

use anyhow::{Error, Result};

use crate::{hold::Setup, holder::Skip, soak};

mod adversary;
mod containers;
mod file;
mod inherited;
mod kernel;
mod moments;
mod mounts;
mod noise;
mod place;
mod requests;
mod stuck;
mod tasks;
mod umounter;
mod unix;
mod vanishing;
mod waiting;

/// The name of the executable.
pub const EXECUTABLE: &str = "holders";

/// A program, by the name that it is started with.
#[derive(Debug)]
struct Program {
    name: &'static str,
    run: Run,
}

#[derive(Debug, Clone, Copy)]
enum Run {
    /// Takes references on its paths and prints claims, or prints why it cannot.
    Holder(fn(&Setup) -> Result<()>),
    /// Has arguments of its own.
    Other(fn() -> Result<()>),
}

const fn holder(name: &'static str, run: fn(&Setup) -> Result<()>) -> Program {
    let run = Run::Holder(run);
    Program { name, run }
}

const fn other(name: &'static str, run: fn() -> Result<()>) -> Program {
    let run = Run::Other(run);
    Program { name, run }
}

const PROGRAMS: &[Program] = &[
    holder("hold-acct", kernel::accounting),
    holder("hold-aio-poll", requests::aio_poll),
    holder("hold-aio-sync", requests::aio_sync),
    holder("hold-binfmt", kernel::binfmt),
    holder("hold-child-mount", mounts::child),
    holder("hold-child-mount-used", mounts::child_used),
    holder("hold-close-range", stuck::close_range),
    holder("hold-cwd", place::cwd),
    holder("hold-cwd-moved", place::cwd_moved),
    holder("hold-deaf-fuse", stuck::deaf_fuse),
    holder("hold-exe", place::exe),
    holder("hold-fanotify-event", stuck::event),
    holder("hold-fanotify-perm", stuck::permission),
    holder("hold-fd", file::read),
    holder("hold-fd-clone-files", tasks::clone_files),
    holder("hold-fd-covered", mounts::covered),
    holder("hold-fd-crowd", file::crowd),
    holder("hold-fd-deleted", file::deleted),
    holder("hold-fd-directory", file::directory),
    holder("hold-fd-in-call", tasks::in_call),
    holder("hold-fd-lease", file::lease),
    holder("hold-fd-left", mounts::left),
    holder("hold-fd-mmap", file::mapped_too),
    holder("hold-fd-moved", mounts::moved),
    holder("hold-fd-on-top", mounts::on_top),
    holder("hold-fd-open-tree", file::tree),
    holder("hold-fd-path", file::path),
    holder("hold-fd-pid-namespace", tasks::pid_namespace),
    holder("hold-fd-shared", tasks::shared),
    holder("hold-fd-stopped", tasks::stopped),
    holder("hold-fd-traced", tasks::traced),
    holder("hold-fd-twice", file::twice),
    holder("hold-fd-unrelated", mounts::unrelated),
    holder("hold-fd-vfork", tasks::vfork),
    holder("hold-fd-write", file::write),
    holder("hold-fd-zombie-leader", tasks::zombie_leader),
    holder("hold-fifo-open", stuck::fifo),
    holder("hold-idle", place::idle),
    holder("hold-loop", kernel::looped),
    holder("hold-mmap", file::mapped_once),
    holder("hold-mmap-files", file::mapped_each),
    holder("hold-mmap-thrice", file::mapped_thrice),
    holder("hold-namespace", mounts::namespace),
    holder("hold-nfs-export", kernel::nfs_export),
    holder("hold-root", place::root),
    holder("hold-root-cwd", place::root_cwd),
    holder("hold-scm-cycle", unix::cycle),
    holder("hold-scm-nested", unix::sent_nested),
    holder("hold-scm-rights", unix::sent),
    holder("hold-several", file::several),
    holder("hold-stat-link", stuck::link),
    holder("hold-stat-stuck", stuck::stat),
    holder("hold-swap", kernel::swap),
    holder("hold-swap-device", kernel::swap_device),
    holder("hold-thread-cwd", place::thread_cwd),
    holder("hold-thread-fd", tasks::thread_fd),
    holder("hold-unix-accepted", unix::accepted),
    holder("hold-unix-dgram-unlinked", unix::datagram_unlinked),
    holder("hold-unix-embryo", unix::embryo),
    holder("hold-unix-listener", unix::listener),
    holder("hold-unix-netns", unix::netns),
    holder("hold-uprobe-perf", kernel::uprobe_perf),
    holder("hold-uprobe-tracefs", kernel::uprobe_tracefs),
    holder("hold-uring-fixed", requests::registered),
    holder("hold-uring-fixed-fd", requests::registered_too),
    holder("hold-uring-mmap", requests::ring_mapped),
    holder("hold-uring-queued", requests::queued),
    holder("hold-uring-request", requests::request),
    holder("hold-uring-teardown", requests::teardown),
    holder("hold-zombie", tasks::zombie),
    other("adversary", adversary::main),
    other("distroless", containers::distroless),
    other("enterer", containers::enterer),
    other("flicker", moments::flicker),
    other("forker", moments::forker),
    other("inherited", inherited::main),
    other("mountpoint-remover", vanishing::mountpoint_remover),
    other("noise", noise::main),
    other("soak", soak::main),
    other("umounter", umounter::main),
    other("vanisher", vanishing::vanisher),
    other("waiter", waiting::main),
];

/// Checks that there is such a program.
#[must_use]
pub fn exists(name: &str) -> bool {
    PROGRAMS.iter().any(|program| program.name == name)
}

/// Runs the program that the first word of the command line names.
pub fn main() -> Result<ExitCode> {
    let word = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&word).file_name().unwrap_or_default();
    let Some(program) = PROGRAMS.iter().find(|program| name == program.name) else {
        eprintln!(
            "{}: no such program; link one of these names to it:",
            name.display()
        );
        for program in PROGRAMS {
            eprintln!("{}", program.name);
        }
        return Ok(ExitCode::from(2));
    };
    match program.run {
        Run::Other(run) => run()?,
        Run::Holder(run) => {
            let setup = Setup::from_args()?;
            match run(&setup).map_err(Error::downcast::<Skip>) {
                Ok(()) => {}
                Err(Ok(skip)) => setup.skip(&skip.skip)?,
                Err(Err(error)) => return Err(error),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
