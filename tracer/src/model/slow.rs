//! Where the time of an umount2 goes that takes long.

use serde::{Deserialize, Serialize};

use super::Timestamp;

named! {
    /// What an umount2 is at.
    Phase {
        /// It looks for the mount by its path.
        Lookup => "lookup",
        /// It takes it out of the mount tables.
        Tables => "tables",
        /// It aborts what is under way (`MNT_FORCE`).
        Abort => "abort",
        /// It writes back what is dirty.
        Sync => "sync",
        /// It frees cached inodes, names and pages.
        Evict => "evict",
        /// It shuts the file system down otherwise.
        Shutdown => "shutdown",
        /// It is not known.
        Unknown => "unknown",
    }
}

named! {
    /// What an umount2 waits for.
    WaitsFor {
        /// A block device.
        Device => "device",
        /// The server of a FUSE.
        FuseServer => "fuse_server",
        /// The server of a network file system.
        NetworkServer => "network_server",
        /// A lock that somebody else has.
        Lock => "lock",
        /// That no CPU looks at the old tables any more.
        Rcu => "rcu",
        /// Nothing: it runs on a CPU, where it is not seen what at.
        Cpu => "cpu",
    }
}

/// An umount2 that takes long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Slow {
    /// When its result was known: afterwards the caller is kept by what is left to do, as freeing the file system.
    pub answered: Option<Timestamp>,
    /// The name of the error that it returned; `null` where it succeeded, or is not over.
    pub error: Option<String>,
    /// How often it was looked at.
    pub looks: u64,
    /// What it was seen at; most often first.
    pub waits: Vec<Wait>,
}

/// Something that an umount2 was seen at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Wait {
    /// What it was doing.
    pub phase: Phase,
    /// What it waited for; `null` where that is not known.
    pub waits_for: Option<WaitsFor>,
    /// The kernel's function, without those that only sleep.
    pub function: Option<String>,
    /// How often.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub looks: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// All functions of the stack that was seen most often, innermost first.
    pub stack: Vec<String>,
}
