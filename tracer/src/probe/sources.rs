//! The kernel's side of who makes how much noise (`tracer_common::Source`).

use std::{
    fmt,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use tracer_common::{HOST, REST, Room, SOURCES_MAX, Source};

use super::ledger::read_all;

/// From so many on those that are quiet are taken away.
const CROWDED: usize = SOURCES_MAX as usize / 2;
/// How long one has to be quiet for that, ns.
const QUIET: u64 = 60_000_000_000;

/// The table of sources, and what the programs want to know of user space.
pub struct Sources {
    table: BpfHashMap<MapData, u64, Source>,
    table_fd: OwnedFd,
    mounts_changed: Array<MapData, u32>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    pub(super) fn new(table: Map, mounts_changed: Map) -> Result<Self> {
        let Map::HashMap(data) = &table else {
            bail!("the sources are no hash map");
        };
        let table_fd = data.fd().as_fd().try_clone_to_owned()?;
        let mut table = BpfHashMap::try_from(table).context("map SOURCES")?;
        table
            .insert(REST, Source::BLANK, 0)
            .context("making room for sources without a room")?;
        Ok(Self {
            table,
            table_fd,
            mounts_changed: Array::try_from(mounts_changed).context("map MOUNTS_CHANGED")?,
        })
    }

    /// Those that found no room for something, ever. Where there are many, those that are quiet and lost nothing are
    /// forgotten: their room is as new when they come again.
    pub fn noisy(&mut self, now: u64) -> Vec<(u64, Source)> {
        let all = read_all::<u64, Source>(self.table_fd.as_fd()).unwrap_or_else(|error| {
            log::debug!("reading the sources: {error}");
            Vec::new()
        });
        let (noisy, quiet): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(_, source)| source.lost.iter().any(|lost| *lost > 0));
        if noisy.len() + quiet.len() > CROWDED {
            let idle = |source: &Source| {
                let at_a_time = [Room::UnderWay, Room::Ledger].map(|room| source.used[room as usize]);
                at_a_time == [0, 0] && now.saturating_sub(source.window) > QUIET
            };
            for (source, _) in quiet.iter().filter(|(key, source)| *key != REST && idle(source)) {
                if let Err(error) = self.table.remove(source) {
                    log::debug!("forgetting a source: {error}");
                }
            }
        }
        noisy
    }

    /// The mounts are about to be looked at: the next change is to be told again.
    pub fn look_at_mounts(&mut self, source: u64) {
        if let Err(error) = self.mounts_changed.set(u32::from(source != HOST), 0, 0) {
            log::debug!("asking for changes of mounts: {error}");
        }
    }
}
