//! What to do about what was found: from facts to fixes. Nothing of it is done by ebusy itself.
//!
//! The least harmful thing comes first, and what a command interrupts stands beside it. Sentences quote what others
//! named ([`name_in_text`](crate::text::name_in_text)); commands are made from arguments
//! ([`Command`](crate::text::Command)). The sentence of a fix is data, the same in JSON, text and HTML, so it is made here;
//! `render` only lays it out.

mod audit;
mod check;
mod child_mounts;
mod copies;
mod detached;
mod kernel;
mod leftover;
mod nobody;
mod operation;
mod owners;
mod retry;
mod slow;
#[cfg(test)]
mod tests;
mod umount;

pub use self::{audit::advise_audit, retry::after};
pub(crate) use self::{
    check::check_command,
    copies::mountpoint_seen,
    retry::{by_itself, retries_by_rule},
};
use crate::model::{Incident, IncidentBody, Who};

/// Fills in what frees the target of an incident, least harmful first; where nobody was found, what tells more.
pub fn advise_incident(incident: &mut Incident) {
    let Incident {
        body,
        holders,
        references: books,
        target,
        probe: tier,
        ..
    } = &*incident;
    incident.fixes = match body {
        IncidentBody::Umount(umount) if umount.of_own_root => {
            umount::of_own_root(holders, &umount.candidates, target)
        }
        IncidentBody::Umount(umount) => nobody::of_refused(holders, &umount.candidates, books, *tier, target),
        IncidentBody::Operation(refused) => {
            operation::of_operation(refused.operation, refused.reason, holders, target)
        }
        IncidentBody::Detached => detached::of_followed(holders, target),
        IncidentBody::Slow(slow) => slow::of_slow(slow, target),
    };
}

/// Fills in what frees a target that was only looked at.
pub fn advise_who(who: &mut Who) {
    who.fixes = nobody::of_asked(
        &who.holders,
        &who.candidates,
        &who.references,
        who.probe,
        &who.target,
    );
    if who.leftover {
        // After whoever uses it: else that umount is refused as well.
        who.fixes.push(leftover::of_leftover(&who.target));
    }
}
