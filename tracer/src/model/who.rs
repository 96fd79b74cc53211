//! What blocks a mount now: the answer of `who`.

use serde::Serialize;

use super::{Books, Fix, Holder, Since, Target, Tier, Timestamp};

/// Who would block an umount now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Who {
    /// Its name and version.
    pub schema: String,
    /// When it was looked at.
    pub time: Timestamp,
    /// The mount asked about.
    pub target: Target,
    /// What a log says was refused is not its umount: it is that reason itself, as it is still mounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leftover: bool,
    /// Counted after the fact.
    pub references: Books,
    /// The owners of references that would block.
    pub holders: Vec<Holder>,
    /// Suspected, not seen by reference.
    pub candidates: Vec<Holder>,
    /// They use a private copy or a detached clone.
    pub bystanders: Vec<Holder>,
    /// The probe tier.
    pub probe: Tier,
    /// Since when its umount has failed, at the latest; left out where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// What to do, least harmful first; then what does not help.
    pub fixes: Vec<Fix>,
}

impl Who {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.who/1";
}
