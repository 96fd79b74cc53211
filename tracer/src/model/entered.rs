//! How a holder came to a mount of another mount namespace.

use serde::{Deserialize, Serialize};

use super::{Container, Parent, Timestamp};

/// The way in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Entered {
    /// When it entered; of `outside` when it opened the file, if that was seen.
    pub time: Option<Timestamp>,
    /// How.
    pub operation: WayIn,
    /// The mount namespace of the mount that is held.
    pub namespace: u32,
    /// Where it came from, if that is known; of `outside` where it is.
    pub from: Option<u32>,
    /// The container whose root file system that namespace has.
    pub container: Option<Container>,
    /// The ancestor that entered, where it was not the holder itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Parent>,
}

named! {
    /// How a thread came to a mount of another mount namespace.
    #[derive(Default)]
    WayIn {
        /// It entered a namespace that was there.
        Setns => "setns",
        /// It left its own for a new copy of it.
        Unshare => "unshare",
        /// It was born in a new copy of its parent's.
        Clone => "clone",
        /// It is in another mount namespace than the mount: it came by `/proc/PID/root`, or by a descriptor that it
        /// inherited or was sent.
        Outside => "outside",
        /// It is not known.
        #[default]
        Unknown => "unknown",
    }
}
