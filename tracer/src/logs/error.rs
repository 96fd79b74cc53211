//! What was refused, as far as a log says.

use serde::{Deserialize, Serialize};

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusyError {
    /// umount2 said EBUSY.
    Umount,
    /// An umount failed, and the line does not say with what.
    UmountFailed,
    /// unlink, rmdir or rename of a mount point said EBUSY.
    Remove,
    /// mount said EBUSY.
    Mount,
    /// Another mount keeps something mounted: the kubelet's list of references.
    Reference,
    /// A layer of an overlay is in use by another one.
    OverlayInUse,
    /// A data set or device is busy.
    Device,
    /// Something else said EBUSY.
    Other,
}

impl BusyError {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Umount => "umount",
            Self::UmountFailed => "umount_failed",
            Self::Remove => "remove",
            Self::Mount => "mount",
            Self::Reference => "reference",
            Self::OverlayInUse => "overlay_in_use",
            Self::Device => "device",
            Self::Other => "other",
        }
    }
}
