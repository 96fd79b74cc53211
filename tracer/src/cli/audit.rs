//! `ebusy audit`: who is in a position to keep container mounts, now, without waiting.

use std::sync::Arc;

use anyhow::Result;

use super::{Common, exit, need_root, output::Results, who::kernel};
use crate::{
    by_proc::ProcMounts,
    confine,
    identity::{BootClock, Containers},
    live::{Identities, audit, enter_host_namespace, own_namespace},
    model::Audit as Report,
    text::say::say,
    watchdog,
};

#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    /// Replace paths, names of pods and containers, and command lines by hashes with a salt of this answer
    #[arg(long)]
    redact: bool,
}

impl Audit {
    pub(super) fn run(self, common: &Common) -> Result<u8> {
        let patterns = common.patterns()?;
        need_root()?;
        watchdog::start()?;
        let mut results = Results::redacted(common, self.redact)?;
        enter_host_namespace()?;
        let containers = Arc::new(Containers::new("/proc", "/"));
        let kernel = kernel(common.probe)?;
        confine::while_looking(results.to_file());
        let report = match kernel {
            Ok((host, reader)) => {
                let identities = Identities::new(host.clock, containers, common.cmdline);
                audit(&host, &reader, &identities, &patterns)
            }
            Err(why) => {
                say!(
                    "tier proc, {why}: only the mounts of the host's own namespace are seen, and nothing of who uses them"
                );
                let mounts = ProcMounts::read(own_namespace())?;
                containers.learn_all(mounts.paths());
                mounts.audit(&containers, &patterns, BootClock::sample().now())
            }
        };
        results.audit(&report)?;
        results.finish(verdict(&report))
    }
}

/// A section that was not looked at may have something.
fn verdict(report: &Report) -> u8 {
    if report.found() {
        exit::FOUND
    } else if report.blind.is_empty() && report.gaps.is_empty() {
        exit::OK
    } else {
        exit::UNKNOWN
    }
}
