//! What all records of the rings have.

use tracer_common::{Ancestor, COMM_LEN, Header, PathRef};

use crate::model::{Parent, Process, Text};

/// Who did it.
pub(super) fn process(header: &Header) -> Process {
    Process {
        pid: header.tgid,
        tid: Some(header.tid),
        comm: Text::from_c_array(&header.comm),
        uid: Some(header.uid),
        mount_namespace: (header.mnt_ns != 0).then_some(header.mnt_ns),
        ..Process::default()
    }
}

/// Ancestors, nearest first.
pub(super) fn parents(ancestors: &[Ancestor], count: u32) -> Vec<Parent> {
    let used = ancestors.iter().take(count as usize);
    used.map(|ancestor| Parent {
        pid: ancestor.tgid,
        comm: Text::from_c_array(&ancestor.comm as &[u8; COMM_LEN]),
        start_time: None,
    })
    .collect()
}

/// A mount and a dentry on it.
pub(super) fn pair(path: PathRef) -> (u64, u64) {
    (path.mount, path.dentry)
}
