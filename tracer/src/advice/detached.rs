//! What to do about a mount that was detached and lives on.

use super::{
    copies,
    owners::owners,
    umount::{joined, released},
};
use crate::{
    model::{Fix, Holder, Target},
    text::Command,
};

/// What frees it. No namespace has it: there is nothing left to unmount.
pub(super) fn of_detached(holders: &[Holder], target: &Target) -> Vec<Fix> {
    if holders.is_empty() {
        return vec![Fix::change(
            "the kernel, or what ebusy does not see, has the last reference; it cannot be unmounted again",
        )];
    }
    let mut fixes = released(holders, target);
    joined(&mut fixes);
    fixes.extend(owners(holders, target).iter().find_map(copies::narrow));
    fixes
}

/// The same for an incident that follows it.
pub(super) fn of_followed(holders: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = of_detached(holders, target);
    if holders.is_empty() {
        fixes.push(Fix::look(
            "see whether it lives still, and what it keeps (DETACH)",
            Command::new(&["ebusy", "audit"]),
        ));
    }
    fixes
}
