//! System calls other than umount2 that were refused: as the kernel sent them, and as they are in the stream.

use serde::{Deserialize, Serialize};
use tracer_common::OperationRecord;

use super::{
    header::{pair, parents, process},
    is_host,
};
use crate::model::{Holder, Operation, Process, Reason, Target};

/// `syscall` of the open of a block device, of which only the kernel's own function was seen.
pub const BLOCK_DEVICE: u32 = u32::MAX;

/// A refused system call as the kernel sent it: paths are not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub struct RawOperation {
    /// When it returned, boot clock, ns.
    pub time: u64,
    /// On whose account ([`tracer_common::Source`]).
    pub source: u64,
    /// Its number on x86-64, or [`BLOCK_DEVICE`].
    pub syscall: u32,
    /// Device number, of [`BLOCK_DEVICE`] and of an ioctl of a loop device.
    pub device: u32,
    /// Its arguments.
    pub arguments: [u64; 5],
    /// Who called.
    pub caller: Process,
    /// Start of the caller, boot clock, ns.
    pub start: u64,
    /// Working directory: mount, dentry.
    pub cwd: (u64, u64),
    /// Root directory: mount, dentry.
    pub root: (u64, u64),
    /// What the paths begin at, and more: `OperationRecord::bases`.
    pub bases: [(u64, u64); 2],
    /// Root dentry of what is reconfigured; 0 for none.
    pub reconfigured: u64,
    /// File system type; empty for unknown.
    pub fs_name: Vec<u8>,
    /// Paths; or target, source, options; or of device-mapper name, uuid; empty for none.
    pub texts: [Vec<u8>; 3],
}

/// From its record.
pub(super) fn decode(record: &OperationRecord) -> RawOperation {
    let header = &record.header;
    let text = |index: usize| {
        let text = &record.texts[index];
        let len = (record.text_lens[index] as usize).min(text.len());
        text[..len].to_vec()
    };
    let name = &record.fs_name;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    RawOperation {
        time: header.time,
        source: header.source,
        syscall: record.syscall,
        device: record.device,
        arguments: record.arguments,
        caller: Process {
            parents: parents(&record.ancestors, record.ancestor_count),
            ..process(header)
        },
        start: header.start,
        cwd: pair(record.cwd),
        root: pair(record.root),
        bases: record.bases.map(pair),
        reconfigured: record.reconfigured,
        fs_name: name[..end].to_vec(),
        texts: [text(0), text(1), text(2)],
    }
}

/// A system call other than umount2 was refused, or left undone what it was to do, and what was found to keep what it was about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// Our own number of operation and target; the same until what kept it is gone.
    pub cause: u64,
    /// What was to be done.
    pub operation: Operation,
    /// When it returned, boot clock, ns.
    pub returned: u64,
    /// On whose account ([`super::Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "is_host")]
    pub source: u64,
    /// Who called.
    pub caller: Process,
    /// What it was to be done to.
    pub target: Target,
    /// Why it was refused.
    pub reason: Reason,
    /// What keeps it.
    pub holders: Vec<Holder>,
    /// What was found beside.
    #[serde(default)]
    pub bystanders: Vec<Holder>,
    /// When it was looked for, boot clock, ns.
    pub looked: u64,
}

/// What kept the target of a refused system call is gone, or the last reference of a detached mount went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Freed {
    /// The number of [`Refused`] or of [`Detached`](super::Detached).
    pub cause: u64,
    /// When that was seen, boot clock, ns.
    pub time: u64,
}

#[cfg(test)]
mod tests {
    use tracer_common::{OperationRecord, RecordKind};
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use crate::stream::{Raw, decode};

    #[test]
    fn a_refused_call_comes_back_and_hostile_lengths_are_cut() {
        let mut record = OperationRecord::new_zeroed();
        record.header.kind = RecordKind::Operation as u32;
        record.syscall = 84;
        record.texts[0][..4].copy_from_slice(b"/a\n\xff");
        record.text_lens = [4, 0, 70_000];
        record.fs_name = [b'x'; 32];
        let Raw::Operation(operation) = decode(record.as_bytes()).unwrap() else {
            panic!("not an operation")
        };
        assert_eq!(operation.texts[0], b"/a\n\xff");
        assert_eq!(operation.texts[2].len(), 4096);
        assert_eq!(operation.fs_name, [b'x'; 32]);
    }
}
