//! The kernel's ledger of open files, read whole.

use std::{
    fmt,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use tracer_common::{ClosedKey, LedgerEntry};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Entries that one call takes at the most.
const BATCH: usize = 4096;

/// Both maps of the ledger.
pub struct LedgerMaps {
    open: BpfHashMap<MapData, u64, LedgerEntry>,
    open_fd: OwnedFd,
    /// The programs have it by the number of its descriptor until they are loaded.
    closed: Map,
}

impl fmt::Debug for LedgerMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerMaps").finish_non_exhaustive()
    }
}

impl LedgerMaps {
    pub(super) fn new(open: Map, closed: Map) -> Result<Self> {
        let open_fd = data(&open)?.fd().as_fd().try_clone_to_owned()?;
        data(&closed)?;
        Ok(Self {
            open: BpfHashMap::try_from(open).context("map LEDGER")?,
            open_fd,
            closed,
        })
    }

    /// All open files, by address. An entry that is being written has no time yet and is left out; so is one that
    /// [`LedgerMaps::refill`] made.
    pub fn open(&self) -> Result<Vec<(u64, LedgerEntry)>> {
        let mut all = read_all::<u64, LedgerEntry>(self.open_fd.as_fd()).context("reading the ledger")?;
        all.retain(|(_, entry)| entry.opened != 0);
        Ok(all)
    }

    /// The files that were closed lately.
    pub fn closed(&self) -> Result<Vec<(u64, LedgerEntry)>> {
        let all = read_all::<ClosedKey, LedgerEntry>(data(&self.closed)?.fd().as_fd())
            .context("reading the ledger")?;
        Ok(all
            .into_iter()
            .filter(|(key, _)| key.opened != 0)
            .map(|(key, entry)| (key.file, entry))
            .collect())
    }

    /// Whether this entry is still there: then its file was not closed.
    #[must_use]
    pub fn has(&self, file: u64, opened: u64) -> bool {
        self.open.get(&file, 0).is_ok_and(|entry| entry.opened == opened)
    }

    /// Removes an entry whose file is no more: its close was missed. Had the address just come again, that file would
    /// be found by looking, but not who opened it.
    pub fn purge(&mut self, file: u64, opened: u64) {
        if self.has(file, opened)
            && let Err(error) = self.open.remove(&file)
        {
            log::debug!("purging the ledger: {error}");
        }
    }

    /// Enters a file whose open was missed, so that its close is seen.
    pub fn refill(&mut self, file: u64, mount: u64, mount_id: u32) {
        const NO_EXIST: u64 = 1;
        let mut entry = LedgerEntry {
            mount_id,
            ..LedgerEntry::default()
        };
        entry.path.mount = mount;
        if let Err(error) = self.open.insert(file, entry, NO_EXIST) {
            log::debug!("refilling the ledger: {error}");
        }
    }
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::HashMap(data) | Map::LruHashMap(data) => Ok(data),
        _ => anyhow::bail!("the ledger is no hash map"),
    }
}

/// All of a hash map (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6 on); aya goes from key to key, two calls for each.
pub(super) fn read_all<K, V>(map: BorrowedFd<'_>) -> std::io::Result<Vec<(K, V)>>
where
    K: FromBytes + FromZeros + IntoBytes + Copy,
    V: FromBytes + FromZeros + IntoBytes + Copy,
{
    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
    /// The part of `union bpf_attr` of this command.
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    let mut keys = vec![K::new_zeroed(); BATCH];
    let mut values = vec![V::new_zeroed(); BATCH];
    // A bucket of a hash map, 4 bytes; room for a key, as other maps have.
    let mut position = [0u64; 4];
    let mut all = Vec::new();
    let mut first = true;
    loop {
        let at = position.as_mut_ptr() as u64;
        let mut attributes = Attributes {
            in_batch: if first { 0 } else { at },
            out_batch: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of this command; keys and values have room for `count`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let error = std::io::Error::last_os_error();
        let ended = result != 0 && error.raw_os_error() == Some(libc::ENOENT);
        if result != 0 && !ended {
            return Err(error);
        }
        let read = (attributes.count as usize).min(BATCH);
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(read));
        if ended {
            return Ok(all);
        }
        first = false;
    }
}
