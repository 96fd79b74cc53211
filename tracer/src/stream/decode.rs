//! Bytes of the rings to values. Total: any bytes give a value or an error, and nothing is trusted before its
//! length is checked.

use tracer_common::{
    COMPARED_MAX, HOST, Header, LedgerEntry, MountRecord, NamespaceRecord, OpenRecord, OperationRecord,
    RecordKind, Source, UmountRecord, namespace_operation, path_status,
};

use super::{
    Closed, MountKey, Opened,
    header::{pair, parents, process},
    operation::{self, RawOperation},
};
use crate::model::{Process, Text, WayIn};

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for what it says it is.
    #[error("a {what} record has {found} bytes, expected {expected}")]
    Length {
        /// The kind.
        what: &'static str,
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// A kind that this version does not know.
    #[error("a record of unknown kind {0}")]
    Kind(u32),
}

/// A record as the kernel sent it: addresses are not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// An umount2 returned.
    Umount(Box<RawUmount>),
    /// A file was opened on a watched mount.
    Opened(Box<Opened>),
    /// A file's last reference went.
    Closed(Closed),
    /// A thread came into another mount namespace.
    Namespace {
        /// Boot clock, ns.
        time: u64,
        /// `setns`, `unshare`, `clone`.
        operation: WayIn,
        /// Who, and the number of the namespace.
        by: Box<Process>,
        /// Start of the process, boot clock, ns.
        start: u64,
        /// On whose account ([`tracer_common::Source`]).
        source: u64,
    },
    /// A mount tree may have changed.
    MountChanged {
        /// Boot clock, ns.
        time: u64,
        /// On whose account ([`tracer_common::Source`]).
        source: u64,
    },
    /// A system call other than umount2 was refused.
    Operation(Box<RawOperation>),
}

impl Raw {
    /// When it happened, boot clock, ns.
    #[must_use]
    pub fn time(&self) -> u64 {
        match self {
            Self::Umount(umount) => umount.returned,
            Self::Opened(opened) => opened.time,
            Self::Closed(closed) => closed.time,
            Self::Namespace { time, .. } | Self::MountChanged { time, .. } => *time,
            Self::Operation(operation) => operation.time,
        }
    }
}

/// An umount as the kernel sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawUmount {
    /// Address of the caller's `task_struct`.
    pub task: u64,
    /// On whose account ([`tracer_common::Source`]).
    pub source: u64,
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// Boot clock when the count that refused it was read, ns; where the tier sees it.
    pub checked: Option<u64>,
    /// Boot clock at return, ns.
    pub returned: u64,
    /// 0, or a negative errno.
    pub ret: i64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
    /// Who called.
    pub caller: Process,
    /// Start of the caller, boot clock, ns.
    pub start: u64,
    /// The path as it was passed, where the tier sees it.
    pub path: Option<Vec<u8>>,
    /// Working directory: mount, dentry.
    pub cwd: (u64, u64),
    /// Root directory: mount, dentry.
    pub root: (u64, u64),
    /// What the path resolved to: mount, dentry; where the tier sees it.
    pub target: Option<(u64, u64)>,
    /// Which mount that was: `mnt_id_unique`, else `mnt_id`.
    pub target_number: Option<u64>,
    /// Whether the busy check ran.
    pub busy_check: bool,
    /// The last mount that it looked at, and its count.
    pub compared: Option<(u64, i32)>,
}

impl RawUmount {
    /// Whether its path resolved to this mount, where the tier sees that.
    #[must_use]
    pub fn meant(&self, mount: MountKey) -> bool {
        self.target
            .is_some_and(|(address, _)| mount.is(address, self.target_number))
    }
}

fn read<T: zerocopy::FromBytes>(bytes: &[u8], what: &'static str) -> Result<T, DecodeError> {
    let error = DecodeError::Length {
        what,
        expected: size_of::<T>(),
        found: bytes.len(),
    };
    T::read_from_prefix(bytes)
        .map(|(value, _)| value)
        .map_err(|_| error)
}

/// The last process of a source that found no room.
#[must_use]
pub fn process_of(source: &Source) -> Process {
    Process {
        pid: source.pid,
        comm: Text::from_c_array(&source.comm),
        uid: Some(source.uid),
        ..Process::default()
    }
}

/// What the ledger has of a file.
#[must_use]
pub fn of_ledger(file: u64, entry: &LedgerEntry) -> Opened {
    Opened {
        time: entry.opened,
        file,
        mount: entry.path.mount,
        dentry: entry.path.dentry,
        by: Process {
            pid: entry.tgid,
            tid: Some(entry.tid),
            comm: Text::from_c_array(&entry.comm),
            uid: Some(entry.uid),
            mount_namespace: (entry.mnt_ns != 0).then_some(entry.mnt_ns),
            ..Process::default()
        },
        source: HOST,
        fd: None,
        start: entry.start,
        name: entry.name,
        flags: entry.flags,
        mode: entry.mode,
        inode_mode: entry.inode_mode,
        closed: (entry.closed != 0).then_some(entry.closed),
    }
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<Raw, DecodeError> {
    let header: Header = read(bytes, "event")?;
    match RecordKind::try_from(header.kind).map_err(DecodeError::Kind)? {
        RecordKind::Umount => Ok(umount(&read(bytes, "umount")?)),
        kind @ (RecordKind::Open | RecordKind::Close) => {
            let record: OpenRecord = read(bytes, "open")?;
            Ok(if kind == RecordKind::Close {
                Raw::Closed(Closed {
                    time: header.time,
                    file: record.file,
                })
            } else {
                Raw::Opened(Box::new(Opened {
                    time: header.time,
                    file: record.file,
                    mount: record.path.mount,
                    dentry: record.path.dentry,
                    by: process(&header),
                    source: header.source,
                    fd: u32::try_from(record.fd).ok(),
                    start: header.start,
                    name: record.name,
                    flags: record.flags,
                    mode: record.mode,
                    inode_mode: record.inode_mode,
                    closed: None,
                }))
            })
        }
        RecordKind::Namespace => {
            let record: NamespaceRecord = read(bytes, "namespace")?;
            let operation = match record.operation {
                namespace_operation::SETNS => WayIn::Setns,
                namespace_operation::UNSHARE => WayIn::Unshare,
                namespace_operation::CLONE => WayIn::Clone,
                _ => WayIn::Unknown,
            };
            Ok(Raw::Namespace {
                time: header.time,
                operation,
                by: Box::new(process(&header)),
                start: header.start,
                source: header.source,
            })
        }
        RecordKind::Mount => {
            let _: MountRecord = read(bytes, "mount")?;
            Ok(Raw::MountChanged {
                time: header.time,
                source: header.source,
            })
        }
        RecordKind::Operation => {
            let record: OperationRecord = read(bytes, "operation")?;
            Ok(Raw::Operation(Box::new(operation::decode(&record))))
        }
    }
}

fn umount(record: &UmountRecord) -> Raw {
    let header = &record.header;
    let mut caller = process(header);
    caller.parents = parents(&record.ancestors, record.ancestor_count);
    let path = (record.path_status == path_status::WHOLE)
        .then(|| record.path.get(..record.path_len as usize).map(<[u8]>::to_vec))
        .flatten();
    let compared = (record.compared_count as usize).min(COMPARED_MAX).checked_sub(1);
    Raw::Umount(Box::new(RawUmount {
        task: record.task,
        source: header.source,
        entered: record.entered,
        checked: (record.checked != 0).then_some(record.checked),
        returned: header.time,
        ret: record.ret,
        flags: record.flags,
        caller,
        start: header.start,
        path,
        cwd: pair(record.cwd),
        root: pair(record.root),
        target: (record.target.mount != 0).then(|| pair(record.target)),
        target_number: (record.target_number != 0).then_some(record.target_number),
        busy_check: record.busy_check_ran != 0,
        compared: compared
            .and_then(|last| record.compared.get(last))
            .map(|last| (last.mount, last.count)),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_common::{RecordKind, UmountRecord};
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::{DecodeError, Raw, decode};
    use crate::stream::MountKey;

    #[test]
    fn an_umount_comes_back_and_hostile_lengths_are_cut() {
        let mut record = UmountRecord::new_zeroed();
        record.header.kind = RecordKind::Umount as u32;
        record.header.comm[..4].copy_from_slice(b"shim");
        record.ret = -16;
        record.path[..5].copy_from_slice(b"/a\n\xff\0");
        record.path_len = 4;
        record.ancestor_count = 900;
        record.compared_count = 77;
        record.compared[31].count = 3;
        record.target.mount = 0x1000;
        record.target_number = 44;
        let Raw::Umount(umount) = decode(record.as_bytes()).unwrap() else {
            panic!("not an umount")
        };
        assert_eq!(umount.path.as_deref(), Some(&b"/a\n\xff"[..]));
        assert_eq!((umount.ret, umount.compared), (-16, Some((0, 3))));
        assert_eq!(umount.caller.parents.len(), 8);
        let mount = |id, unique| MountKey {
            address: 0x1000,
            id,
            unique,
        };
        // The number of Linux 6.8 on is never given away again, the other one is.
        assert!(umount.meant(mount(44, None)) && umount.meant(mount(7, Some(44))));
        assert!(!umount.meant(mount(45, None)) && !umount.meant(mount(44, Some(45))));
        let elsewhere = MountKey {
            address: 0x2000,
            ..mount(44, None)
        };
        assert!(!umount.meant(elsewhere));
        record.path_len = 70_000;
        let Raw::Umount(umount) = decode(record.as_bytes()).unwrap() else {
            panic!("not an umount")
        };
        assert_eq!(umount.path, None);
    }

    #[test]
    fn short_and_unknown_records_are_errors() {
        assert!(matches!(
            decode(&[1, 0, 0, 0]),
            Err(DecodeError::Length { what: "event", .. })
        ));
        let mut bytes = [0u8; 80];
        bytes[0] = 99;
        assert_eq!(decode(&bytes), Err(DecodeError::Kind(99)));
        bytes[0] = 1;
        assert!(matches!(
            decode(&bytes),
            Err(DecodeError::Length { what: "umount", .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..20000), kind in 0u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = decode(&bytes);
        }
    }
}
