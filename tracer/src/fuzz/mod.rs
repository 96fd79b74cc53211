//! Whatever reads bytes of others, as functions of bytes: for cargo-fuzz (`fuzz/`), and for the test that feeds the
//! corpora to the same functions. None of them may panic, hang, take time or memory without bound, or make text that does
//! something to a terminal.

mod capture;
mod cost;
mod mutate;
mod names;
mod noise;
mod shown;
mod sources;

pub use self::{
    capture::written,
    cost::{Cost, Counting, cost},
    mutate::Grammar,
    noise::Noise,
};

/// A function of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus.
    pub name: &'static str,
    /// What the bytes are.
    pub grammar: Grammar,
    /// What is done with them.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, grammar: Grammar, run: fn(&[u8])) -> Target {
    Target { name, grammar, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("boltdb", Grammar::Bytes, sources::boltdb),
    target("btf", Grammar::Bytes, sources::btf),
    target("cgroup", Grammar::Bytes, sources::cgroup),
    target("config", Grammar::Json, sources::config),
    target("engine", Grammar::Json, sources::engine),
    target("event", Grammar::Bytes, sources::event),
    target("log", Grammar::Bytes, sources::log),
    target("mountinfo", Grammar::Bytes, sources::mountinfo),
    target("name", Grammar::Bytes, names::name),
    target("proc", Grammar::Bytes, sources::proc),
    target("records", Grammar::Records, segment),
    target("segment", Grammar::Segment, segment),
];

/// The one of that name.
///
/// # Panics
///
/// Where there is none.
#[must_use]
pub fn target_of(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| panic!("there is no target {name}"))
}

impl Target {
    /// Gives it these bytes.
    ///
    /// # Panics
    ///
    /// Where that cost too much.
    pub fn feed(&self, bytes: &[u8]) {
        cost(|| (self.run)(bytes)).1.check(bytes.len());
    }
}

/// A capture, with everything that is made of it.
fn segment(bytes: &[u8]) {
    let _ = written(bytes);
}
