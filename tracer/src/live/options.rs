//! What a session is asked to do, and what it says when it starts.

use std::io::Write;

use super::stuck::Stuck;
use crate::{
    identity::WatchPatterns,
    probe::{Choice, Refused},
};

/// What to watch, and how.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the command line"
)]
pub struct Options {
    /// The tier.
    pub probe: Choice,
    /// Whether opens are recorded.
    pub history: bool,
    /// Targets to watch and show.
    pub patterns: WatchPatterns,
    /// Show every refusal on the host.
    pub all: bool,
    /// Record command lines.
    pub cmdline: bool,
    /// A command runs under us: what is refused to it is shown, what it mounts is watched.
    pub command: bool,
    /// Also write the record stream there, a JSON object a line.
    pub capture: Option<Box<dyn Sink>>,
}

/// Where a capture goes.
pub trait Sink: Write + std::fmt::Debug {}
impl<T: Write + std::fmt::Debug> Sink for T {}

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
