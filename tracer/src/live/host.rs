//! The running host: its kernel's layout, memory and clock.

use std::{os::fd::AsFd, sync::Arc};

use anyhow::{Context as _, Result};
use rustix::{
    process::chdir,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    btf::Btf,
    identity::BootClock,
    kernel::{Kernel, KernelLayout, KernelMemory as _, PerCpu, Reader, Ways},
    probe::Tracefs,
};

/// What stays the same while ebusy runs.
#[derive(Debug)]
pub struct Host {
    /// The kernel's type information.
    pub btf: Arc<Btf>,
    /// Where its fields are.
    pub layout: KernelLayout,
    /// Boot clock to wall clock.
    pub clock: BootClock,
    /// Kernel release.
    pub release: String,
    per_cpu: PerCpu,
    ways: Ways,
    task: u64,
}

impl Host {
    /// Reads the kernel's types; needs no privilege.
    pub fn new() -> Result<Self> {
        let btf = Arc::new(Btf::running_kernel()?);
        let layout = KernelLayout::resolve(&btf);
        layout.check()?;
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let clock = BootClock::sample();
        Ok(Self {
            btf,
            layout,
            clock,
            release,
            per_cpu: PerCpu::default(),
            ways: Ways::default(),
            task: 0,
        })
    }

    /// Finds what the walks start from.
    pub fn attach(&mut self, reader: &Reader) -> Result<()> {
        self.per_cpu = PerCpu::find(reader, &self.layout);
        if let Some(reason) = &self.per_cpu.unknown {
            log::warn!("reference counts cannot be read: {reason}");
        }
        let marks = reader
            .marks(None)
            .context("reading the address of our own task")?;
        self.task = marks.task;
        let events = Tracefs::open().and_then(|tracefs| tracefs.descriptor("available_events"));
        let events = events
            .inspect_err(|error| log::debug!("uprobes of tracefs cannot be looked at: {error:#}"))
            .ok();
        self.ways = Ways::new(Arc::clone(&self.btf), self.task);
        let fixed = self
            .kernel(reader)
            .fixed_ways(events.as_ref().map(|events| events.as_fd()));
        self.ways = std::mem::take(&mut self.ways).with(fixed);
        if marks.tgid != std::process::id() {
            log::warn!(
                "ebusy runs in a pid namespace of its own (pid {} is {} on the host): /proc shows other pids than the \
                 kernel; run it in the host's (hostPID: true)",
                std::process::id(),
                marks.tgid
            );
        }
        Ok(())
    }

    /// Kernel memory with all that makes sense of it. A look begins.
    #[must_use]
    pub fn kernel<'a>(&'a self, reader: &'a Reader) -> Kernel<'a> {
        reader.budget().begin();
        Kernel {
            memory: reader,
            layout: &self.layout,
            per_cpu: &self.per_cpu,
            ways: &self.ways,
        }
    }

    /// Ways to what no task leads to.
    #[must_use]
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// A task to start walks from.
    #[must_use]
    pub fn task(&self) -> u64 {
        self.task
    }

    /// Why reference counts are not to be had.
    #[must_use]
    pub fn counts_unknown(&self) -> Option<&str> {
        self.per_cpu.unknown.as_deref()
    }
}

/// The number of our own mount namespace.
#[must_use]
pub fn own_namespace() -> Option<u32> {
    let link = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    link.to_str()?
        .strip_prefix("mnt:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Moves into the mount namespace of pid 1, so that ebusy is no copy of its own (it is often started in a debug pod),
/// and to its root, so that its working directory holds nothing. Before any thread starts. Where a hardened host hides
/// pid 1 even from root, ebusy stays where it is: idle copies of mounts block nothing.
pub fn enter_host_namespace() -> Result<()> {
    chdir("/").context("changing to /")?;
    let own = std::fs::read_link("/proc/self/ns/mnt").context("reading /proc/self/ns/mnt")?;
    match std::fs::read_link("/proc/1/ns/mnt") {
        Ok(host) if host == own => return Ok(()),
        Ok(_) => {}
        Err(error) => {
            log::info!("the mount namespace of pid 1 is hidden ({error}); staying in our own");
            return Ok(());
        }
    }
    let namespace = std::fs::File::open("/proc/1/ns/mnt").context("opening /proc/1/ns/mnt")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("entering the host's mount namespace (needs CAP_SYS_ADMIN and CAP_SYS_CHROOT)")?;
    chdir("/").context("changing to /")
}
