//! The capabilities that a run needs once its programs are loaded; the rest is given up.

use anyhow::{Context as _, Result};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// What is kept, of what was there (capabilities(7)).
const KEPT: CapabilitySet = CapabilitySet::empty()
    // Maps, and the programs that are run to read kernel memory (Linux 5.8 on).
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    // Both before Linux 5.8; mounts of other namespaces; the self-test mounts.
    .union(CapabilitySet::SYS_ADMIN)
    // `/proc/PID/ns` and `fdinfo` of others.
    .union(CapabilitySet::SYS_PTRACE)
    // Bundles and container stores that are not root's; a folder for captures that is not.
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::DAC_OVERRIDE)
    // Addresses in kallsyms.
    .union(CapabilitySet::SYSLOG);
/// What `watch -- CMD` keeps besides: Ctrl-C for a command that runs as somebody else.
const FOR_COMMAND: CapabilitySet = CapabilitySet::KILL;

/// Gives up what is not needed, with a command or without, in this thread and those that it starts from now on. A command that was forked before
/// keeps what it has.
///
/// # Errors
/// If the kernel refuses it (capget(2), capset(2)).
pub(super) fn give_up(command: bool) -> Result<()> {
    keep(if command { KEPT | FOR_COMMAND } else { KEPT })
}

/// Gives up all but these.
pub(super) fn keep(kept: CapabilitySet) -> Result<()> {
    let now = capabilities(None).context("capget")?;
    let sets = CapabilitySets {
        effective: now.effective.intersection(kept),
        permitted: now.permitted.intersection(kept),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("capset")
}

/// Gives up all, in this thread.
pub(crate) fn none() -> Result<()> {
    keep(CapabilitySet::empty())
}
