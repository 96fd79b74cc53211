//! What a session is asked to do, and what it says when it starts.

use std::time::Duration;

use super::stuck::Stuck;
use crate::{
    capture::Destination,
    identity::WatchPatterns,
    probe::{Choice, History, Refused},
};

/// What to watch, and how.
#[derive(Debug)]
pub struct Options {
    /// The tier.
    pub probe: Choice,
    /// Whether opens are recorded.
    pub history: History,
    /// Targets to watch and show.
    pub patterns: WatchPatterns,
    /// Show every refusal on the host.
    pub all: bool,
    /// Record command lines.
    pub cmdline: bool,
    /// A command runs under us: what is refused to it is shown, what it mounts is watched.
    pub command: bool,
    /// An umount2 that takes longer is told; `None`: none is.
    pub slow: Option<Duration>,
    /// Record the stream there.
    pub capture: Option<Destination>,
}

/// What is being watched: told at the start.
#[derive(Debug)]
pub struct Watching {
    /// Better tiers that did not load.
    pub refused: Vec<Refused>,
    /// Hooks that are missing.
    pub missing: Vec<String>,
    /// Targets found.
    pub targets: usize,
    /// Mounts watched: targets and their slots.
    pub mounts: usize,
    /// Mounts that are stuck already.
    pub stuck: Vec<Stuck>,
    /// What is wrong with the self-test, if it failed.
    pub self_test: Option<String>,
}
