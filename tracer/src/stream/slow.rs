//! umount2 calls that take long, as they are in the stream.

use serde::{Deserialize, Serialize};

use crate::model::{Process, Target};

/// An umount2 takes longer than was asked for, or did; again whenever it is seen at something else, now and then, and at
/// its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    /// Our own number; of the numbers of [`Refused`](super::Refused).
    pub cause: u64,
    /// Boot clock at entry, ns.
    pub entered: u64,
    /// How long was asked for, ns.
    pub limit: u64,
    /// `MNT_*`, `UMOUNT_*`.
    pub flags: u32,
    /// On whose account ([`super::Lost::noise`]); 0 for that of the host's superuser.
    #[serde(default, skip_serializing_if = "super::is_host")]
    pub source: u64,
    /// Who called.
    pub caller: Process,
    /// What it is about.
    pub target: Target,
    /// Its result, 0 or a negative errno, and when that was known (boot clock, ns).
    pub result: Option<(i64, u64)>,
    /// When the caller was seen to be back in user space, boot clock, ns.
    pub ended: Option<u64>,
    /// What the caller was seen at.
    pub stacks: Vec<Stack>,
    /// Looks that found yet another stack.
    pub others: u64,
    /// The last look, boot clock, ns.
    pub looked: u64,
}

/// Looks that found the same functions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// The kernel's functions that the caller was in, innermost first; none while it runs on a CPU.
    pub functions: Vec<String>,
    /// How many.
    pub looks: u64,
    /// The first, boot clock, ns.
    pub first: u64,
    /// The last, boot clock, ns.
    pub last: u64,
}
