//! Counters of what a probe could not tell, by probe and reason.

macro_rules! losses {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// What was lost, and why: an index into the per-CPU array of counters.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Loss {
            $($(#[$doc])* $variant,)+
        }

        impl Loss {
            /// All of them, in the order of their index.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// `probe: reason`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

losses! {
    /// A refused umount.
    RefusalRingFull => "umount: refusal ring full",
    /// An umount that was not refused.
    UmountRingFull => "umount: event ring full",
    /// An umount whose entry was not seen.
    UmountEntryMissing => "umount: entry not seen",
    /// An umount whose return was not seen.
    UmountReturnMissing => "umount: return not seen",
    /// A count of the busy check that was not seen.
    CountReturnMissing => "umount: count not seen",
    /// The table of umounts under way is full.
    UmountTableFull => "umount: table of calls under way full",
    /// The path that was passed could not be read.
    UmountPathFault => "umount: path not readable",
    /// More mounts were compared than a record has room for.
    UmountComparedTruncated => "umount: more mounts compared than recorded",
    /// An open on a watched mount.
    OpenRingFull => "open: event ring full",
    /// The opened file could not be read.
    OpenFault => "open: file not readable",
    /// An open that the ledger had no room for.
    LedgerFull => "open: ledger full",
    /// A change of mount namespace.
    NamespaceRingFull => "mount namespace: event ring full",
    /// A change of the mount tree.
    MountRingFull => "mount: event ring full",
    /// A system call that returned EBUSY.
    OperationRingFull => "refused call: event ring full",
    /// The arguments of such a call were not found.
    OperationArguments => "refused call: arguments not found",
    /// More files opened and closed than one source has room for.
    OpenRoom => "open: more than one source may",
    /// More files in the ledger.
    LedgerRoom => "open: more in the ledger than one source may",
    /// More umounts.
    UmountRoom => "umount: more than one source may",
    /// More calls that returned EBUSY.
    OperationRoom => "refused call: more than one source may",
    /// More mount namespaces entered.
    NamespaceRoom => "mount namespace: more than one source may",
    /// More new mounts.
    MountRoom => "mount: more than one source may",
    /// More umounts under way.
    UnderWayRoom => "umount: more calls under way than one source may",
    /// The table of superblocks had no room for one that was just mounted.
    SuperblockTableFull => "mount: table of superblocks full",
}

/// Number of counters.
pub const LOSS_COUNTERS: u32 = Loss::ALL.len() as u32;
