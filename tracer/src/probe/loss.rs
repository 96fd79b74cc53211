//! What the programs could not tell: their own counters, and the runs that the kernel skipped.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use serde::{Deserialize, Serialize};
use tracer_common::Loss;

/// Losses by probe and reason; those that are zero are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses(pub BTreeMap<String, u64>);

impl Losses {
    /// Sum of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds losses of one kind.
    pub fn add(&mut self, what: impl Into<String>, count: u64) {
        if count > 0 {
            *self.0.entry(what.into()).or_default() += count;
        }
    }
}

/// Reads the counters of the programs.
pub struct LossReader(PerCpuArray<MapData, u64>);

impl std::fmt::Debug for LossReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossReader").finish_non_exhaustive()
    }
}

impl LossReader {
    pub(crate) fn new(map: aya::maps::Map) -> Result<Self> {
        Ok(Self(PerCpuArray::try_from(map).context("map LOSSES")?))
    }

    /// The counters now.
    pub fn read(&self) -> Result<Losses> {
        let mut losses = Losses::default();
        for loss in Loss::ALL {
            let values = self
                .0
                .get(&(*loss as u32), 0)
                .context("reading the loss counters")?;
            losses.add(loss.name(), values.iter().sum());
        }
        Ok(losses)
    }
}
