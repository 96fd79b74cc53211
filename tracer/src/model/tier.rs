//! The ways in which ebusy looks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much the kernel lets us see; ordered from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// No kernel programs at all: open files by /proc, and no counts.
    Proc,
    /// Syscall and raw tracepoints: refusals at the return of umount2, counts right after.
    Tracepoint,
    /// Probes of kernel functions: the same as tracing programs, by breakpoints.
    Kprobe,
    /// Tracing programs: what the kernel compared, inside the refusal.
    Fentry,
}

impl Tier {
    /// All tiers, best first.
    pub const ALL: [Self; 4] = [Self::Fentry, Self::Kprobe, Self::Tracepoint, Self::Proc];

    /// Those that see refusals, best first.
    pub const LOADED: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// Its name on the command line and in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Tracepoint => "tracepoint",
            Self::Kprobe => "kprobe",
            Self::Fentry => "fentry",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
