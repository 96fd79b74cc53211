//! Loads the kernel programs: which tier this kernel allows, its hooks, and the reader, which every tier has.

mod attach;
mod bpf;
mod detach;
mod fuzzed;
mod kprobe;
mod ledger;
mod load;
mod lockdown;
mod loss;
mod sources;
mod tier;
mod tracefs;

pub(crate) use self::fuzzed::fuzzed;
pub use self::{
    ledger::LedgerMaps,
    load::{NoTier, Probes, Refused, WatchedMaps, load, reader_only},
    lockdown::{Lockdown, LockedDown},
    loss::{LossReader, Losses, skipped_runs},
    sources::Sources,
    tier::{Choice, History, Purpose},
    tracefs::Tracefs,
};
