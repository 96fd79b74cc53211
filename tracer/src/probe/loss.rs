//! What the programs could not tell: their own counters, and the runs that the kernel skipped.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use aya_obj::generated::bpf_prog_info;
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

/// Runs of programs that the kernel skipped because one was active on that CPU already (since Linux 5.12; nothing else
/// shows them): by program.
#[must_use]
pub fn skipped_runs(ebpf: &Ebpf) -> Vec<(String, u64)> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            let fd = program.fd().ok()?;
            let skipped = recursion_misses(fd.as_fd())?;
            (skipped > 0).then(|| (format!("{name}: run skipped by the kernel"), skipped))
        })
        .collect()
}

/// `recursion_misses` of a program; aya reads the structure, but does not give this field.
fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// The part of `union bpf_attr` of this command.
    #[repr(C)]
    struct Attributes {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0u8; size_of::<bpf_prog_info>()];
    let mut attributes = Attributes {
        fd: program.as_raw_fd().cast_unsigned(),
        info_len: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attributes are those of this command, and the buffer is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let offset = offset_of!(bpf_prog_info, recursion_misses);
    let bytes = info.get(offset..offset + 8)?;
    (result == 0).then(|| bytes.try_into().map(u64::from_ne_bytes).ok())?
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
