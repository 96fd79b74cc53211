//! Mounts made by hand.

use crate::{
    kernel::Mount,
    live::Mounted,
    model::{Access, Audit, Holder, Kind, Process, Text, Through, Tier, Timestamp},
};

/// A private mount that is the root of its own tree.
pub(super) fn mount(address: u64) -> Mount {
    Mount {
        address,
        parent: address,
        mountpoint: 0,
        root: address * 1000,
        superblock: address * 10,
        id: address as u32,
        unique: None,
        namespace: 1,
        group: 0,
        master: 0,
        per_cpu: 0,
        first_child: 0,
        device_name: 0,
        mountpoint_object: 0,
        flags: 0,
    }
}

/// A mount at a path.
pub(super) fn at(path: &str, mount: Mount) -> Mounted {
    Mounted {
        by_root: true,
        mount,
        path: path.as_bytes().to_vec(),
    }
}

/// An empty audit.
pub(crate) fn audit() -> Audit {
    Audit::of(Timestamp::from_nanos(0), Tier::Tracepoint)
}

/// A process has a file open.
pub(super) fn holder(process: Process) -> Holder {
    Holder {
        kind: Kind::Fd,
        also: Vec::new(),
        refs: 1,
        process: Some(process),
        held_by: None,
        reason: None,
        fd: Some(3),
        access: Some(Access::Read),
        shared_with: Vec::new(),
        path: Text::from(b"/file".to_vec()),
        path_base64: None,
        deleted: false,
        seen_as: None,
        seen_as_base64: None,
        mount_id: None,
        mount_namespace: None,
        through: Through::PropagatedCopy,
        counted: false,
        propagation: None,
        opened: None,
        opened_by: None,
        entered: None,
        attempts_blocked: 0,
        takes_along: None,
        evidence: Vec::new(),
    }
}
