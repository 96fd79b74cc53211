//! How a holder came to a mount of another mount namespace.

use serde::{Deserialize, Serialize};

use super::{Container, Parent, Timestamp};

/// The way in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Entered {
    /// When it entered; of `outside` when it opened the file, if that was seen.
    pub time: Option<Timestamp>,
    /// `setns`, `unshare`, `clone`; or `outside`: it is in another mount namespace than the mount.
    pub operation: String,
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

impl Entered {
    /// It is in another mount namespace: it came by `/proc/PID/root`, or by a descriptor that it inherited or was sent.
    pub const OUTSIDE: &'static str = "outside";
    /// It entered a namespace that was there.
    pub const SETNS: &'static str = "setns";
}
