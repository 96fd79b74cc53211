//! Loads the kernel programs: which tier this kernel allows, its hooks, and the reader, which every tier has.

mod load;
mod loss;
mod tier;
mod tracefs;

pub use self::{
    load::{Probes, Refused, WatchedMaps, load, reader_only},
    loss::{LossReader, Losses, skipped_runs},
    tier::{Choice, Purpose, Tier},
    tracefs::Tracefs,
};
