//! On whose account something happens. Whoever makes noise fills the room of that account, and nobody else's.
//!
//! A source is something that a process cannot make more of: the user id, or, for those in user namespaces, that of
//! whoever made the outermost one; and of root that may not administrate the host (a container), its control group.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{COMM_LEN, Loss};

/// The host's own superuser, who may unmount there: real user id 0 and `CAP_SYS_ADMIN`, in the first user namespace. What
/// it does has rings and tables of its own.
pub const HOST: u64 = 0;
/// All those that the table of sources has no room for.
pub const REST: u64 = u64::MAX;
/// Set in the source of root without that right; the rest is the id of its control group.
pub const CGROUP: u64 = 1 << 63;
/// Sources that are told apart at the most.
pub const SOURCES_MAX: u32 = 4096;

/// Time in which a source has the rooms of [`Room::per_window`], ns.
pub const WINDOW: u64 = 1_000_000_000;

/// What a source has room for, each by itself.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Files opened and closed on watched mounts.
    Open = 0,
    /// umount2 calls that returned.
    Umount = 1,
    /// Other calls that returned EBUSY.
    Operation = 2,
    /// Mount namespaces entered.
    Namespace = 3,
    /// Mounts that are watched from their first moment.
    Mount = 4,
    /// umount2 calls under way.
    UnderWay = 5,
    /// Open files in the ledger.
    Ledger = 6,
    /// Files of the ledger that were closed lately.
    Closed = 7,
}

/// How many ways to lose something.
const LOSSES: usize = Loss::ALL.len();
/// How many rooms there are.
pub const ROOMS: usize = Room::ALL.len();

impl Room {
    /// All of them, in the order of their number.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Umount,
        Self::Operation,
        Self::Namespace,
        Self::Mount,
        Self::UnderWay,
        Self::Ledger,
        Self::Closed,
    ];

    /// How many a source has in a [`WINDOW`]; of calls under way and of open files, at a time. A node with 100 containers starts, opens and
    /// unmounts far less; what a record costs to look at decides between the kinds.
    #[must_use]
    #[inline]
    pub const fn per_window(self) -> u32 {
        match self {
            Self::Open => 8192,
            Self::Ledger => 4096,
            Self::Umount | Self::Namespace | Self::Closed => 256,
            Self::Operation | Self::Mount | Self::UnderWay => 64,
        }
    }

    /// What is lost where there is none.
    #[must_use]
    #[inline]
    pub const fn loss(self) -> Loss {
        match self {
            Self::Open => Loss::OpenRoom,
            Self::Umount => Loss::UmountRoom,
            Self::Operation => Loss::OperationRoom,
            Self::Namespace => Loss::NamespaceRoom,
            Self::Mount => Loss::MountRoom,
            Self::UnderWay => Loss::UnderWayRoom,
            // That it was closed is an event as well, which has room of its own.
            Self::Ledger | Self::Closed => Loss::LedgerRoom,
        }
    }
}

/// A source; its key is its number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Source {
    /// When the window began, boot clock, ns.
    pub window: u64,
    /// What was lost of it, by [`Loss`].
    pub lost: [u64; LOSSES],
    /// What there was in the window, by [`Room`]; of calls under way and of open files, how many there are.
    pub used: [u64; ROOMS],
    /// The last process of which something was lost.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Its start, boot clock, ns.
    pub start: u64,
    /// Its command name.
    pub comm: [u8; COMM_LEN],
}

impl Source {
    /// One that did nothing yet.
    pub const BLANK: Self = Self {
        window: 0,
        lost: [0; LOSSES],
        used: [0; ROOMS],
        pid: 0,
        uid: 0,
        start: 0,
        comm: [0; COMM_LEN],
    };
}
