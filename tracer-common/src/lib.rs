//! What the kernel programs and the user side of ebusy share: records, the table of kernel field offsets, and
//! the arena of the reader.
#![no_std]

mod layout;
mod loss;
mod reader;
mod record;
mod source;

pub use self::{
    layout::{ABSENT, FIELDS, FieldEntry, Layout},
    loss::{LOSS_COUNTERS, Loss},
    reader::{ARENA_BYTES, ARENA_SLOTS, Arena, CHASE_MAX, MAX_READ, READ_FAULT, READ_OK},
    record::{
        ANCESTORS, Ancestor, COMM_LEN, COMPARED_MAX, ClosedKey, Compared, FS_NAME, Header, LedgerEntry,
        MountRecord, NamespaceRecord, OPERATION_TEXTS, OpenRecord, OperationRecord, PATH_MAX, PathRef,
        RecordKind, UmountCall, UmountRecord, Watched, namespace_operation, path_status,
    },
    source::{CGROUP, HOST, REST, ROOMS, Room, SOURCES_MAX, Source, WINDOW},
};

/// Why a superblock is in the table of watched ones.
pub mod watched_superblock {
    /// User space put it there: a mount of it is watched.
    pub const BY_PATTERN: u8 = 1;
    /// The kernel side put it there, because it was just mounted for the first time: user space says what becomes of it.
    pub const NEW: u8 = 2;
}

/// Switches that are fixed when the programs are loaded; constants to the verifier.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    /// Our own process, whose opens are not recorded (0: none).
    pub own_tgid: u32,
}

#[cfg(feature = "user")]
mod pod {
    use super::{ClosedKey, Config, Layout, LedgerEntry, Source, UmountCall, Watched};

    // SAFETY: `repr(C)`, only integers, no padding: any bytes are a value.
    unsafe impl aya::Pod for Layout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Watched {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LedgerEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ClosedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for UmountCall {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Source {}
}
