//! The capabilities that a run needs once its programs are loaded; it drops the rest.

use anyhow::{Context as _, Result};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// The capabilities to keep, if present (capabilities(7)).
const KEPT: CapabilitySet = CapabilitySet::empty()
    // Maps, and running the programs that read kernel memory (Linux 5.8 on).
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    // Both before Linux 5.8; mounts of other namespaces; the self-test mounts.
    .union(CapabilitySet::SYS_ADMIN)
    // `/proc/PID/ns` and `fdinfo` of others.
    .union(CapabilitySet::SYS_PTRACE)
    // Bundles, container stores and capture folders that are not root's.
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::DAC_OVERRIDE)
    // Addresses in kallsyms.
    .union(CapabilitySet::SYSLOG);
/// `watch -- CMD` also keeps this: Ctrl-C for a command that runs as another user.
const FOR_COMMAND: CapabilitySet = CapabilitySet::KILL;

/// Drops unneeded capabilities, with a command or without, in this thread and those that it starts from now on. A
/// command that was forked before keeps its own.
///
/// # Errors
/// If the kernel refuses it (capget(2), capset(2)).
pub(super) fn give_up(command: bool) -> Result<()> {
    keep(if command { KEPT | FOR_COMMAND } else { KEPT })
}

/// Drops all but these.
pub(super) fn keep(kept: CapabilitySet) -> Result<()> {
    let now = capabilities(None).context("capget")?;
    let sets = CapabilitySets {
        effective: now.effective.intersection(kept),
        permitted: now.permitted.intersection(kept),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("capset")
}

/// Drops all, in this thread.
pub(crate) fn none() -> Result<()> {
    keep(CapabilitySet::empty())
}
