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

/// The maps of the ledger: those of the host's superuser, and those of others.
pub struct LedgerMaps {
    open: [BpfHashMap<MapData, u64, LedgerEntry>; 2],
    open_fds: [OwnedFd; 2],
    /// The programs have them by the numbers of their descriptors until they are loaded.
    closed: [Map; 2],
}

impl fmt::Debug for LedgerMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerMaps").finish_non_exhaustive()
    }
}

impl LedgerMaps {
    pub(super) fn new([host, others]: [Map; 2], closed: [Map; 2]) -> Result<Self> {
        let fd = |map: &Map| -> Result<OwnedFd> { Ok(data(map)?.fd().as_fd().try_clone_to_owned()?) };
        let open_fds = [fd(&host)?, fd(&others)?];
        for map in &closed {
            data(map)?;
        }
        let map = |map| BpfHashMap::try_from(map).context("a map of the ledger");
        Ok(Self {
            open: [map(host)?, map(others)?],
            open_fds,
            closed,
        })
    }

    /// All open files, by address. An entry that is being written has no time yet and is left out; so is one that
    /// [`LedgerMaps::refill`] made.
    pub fn open(&self) -> Result<Vec<(u64, LedgerEntry)>> {
        let mut all = Vec::new();
        for fd in &self.open_fds {
            all.extend(read_all::<u64, LedgerEntry>(fd.as_fd()).context("reading the ledger")?);
        }
        all.retain(|(_, entry)| entry.opened != 0);
        Ok(all)
    }

    /// The files that were closed lately.
    pub fn closed(&self) -> Result<Vec<(u64, LedgerEntry)>> {
        let mut all = Vec::new();
        for map in &self.closed {
            let some = read_all::<ClosedKey, LedgerEntry>(data(map)?.fd().as_fd());
            all.extend(some.context("reading the ledger")?);
        }
        Ok(all
            .into_iter()
            .filter(|(key, _)| key.opened != 0)
            .map(|(key, entry)| (key.file, entry))
            .collect())
    }

    /// Whether this entry is still there: then its file was not closed.
    #[must_use]
    pub fn has(&self, file: u64, opened: u64) -> bool {
        self.open.iter().any(|map| has(map, file, opened))
    }

    /// Removes an entry whose file is no more: its close was missed. Had the address just come again, that file would
    /// be found by looking, but not who opened it. Its source has less room from then on.
    pub fn purge(&mut self, file: u64, opened: u64) {
        for map in &mut self.open {
            if has(map, file, opened)
                && let Err(error) = map.remove(&file)
            {
                log::debug!("purging the ledger: {error}");
            }
        }
    }

    /// Enters a file whose open was missed, so that its close is seen: among those of others, who may have made so much
    /// noise that it was.
    pub fn refill(&mut self, file: u64, mount: u64, mount_id: u32) {
        const NO_EXIST: u64 = 1;
        let mut entry = LedgerEntry {
            mount_id,
            ..LedgerEntry::default()
        };
        entry.path.mount = mount;
        let [host, others] = &mut self.open;
        if host.get(&file, 0).is_err()
            && let Err(error) = others.insert(file, entry, NO_EXIST)
        {
            log::debug!("refilling the ledger: {error}");
        }
    }
}

fn has(map: &BpfHashMap<MapData, u64, LedgerEntry>, file: u64, opened: u64) -> bool {
    map.get(&file, 0).is_ok_and(|entry| entry.opened == opened)
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
