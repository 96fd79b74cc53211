//! What to do about holders. Nothing of it is done by ebusy itself.
//!
//! The least harmful thing comes first, and what a command interrupts stands beside it. Sentences quote what others
//! named ([`name_in_text`](super::line::name_in_text)); commands are made from arguments ([`Command`](crate::text::Command)).

mod copies;
mod detached;
mod kernel;
mod nobody;
mod owners;
#[cfg(test)]
mod tests;

use self::owners::{Owner, owners};
pub(super) use self::{
    copies::{mountpoint_seen, umount_in, with_paths},
    owners::{ending, restart},
};
pub use self::{
    detached::{fixes_of_detached, fixes_of_followed},
    nobody::{fixes_of_asked, fixes_of_refused},
};
use super::{report::check_command, retry::after};
use crate::model::{Fix, FixAction, Holder, Kind, Target};

/// Owners that are told one by one.
const MAX_OWNERS: usize = 8;

/// What frees the target, least harmful first: one entry for every owner, then other ways, then what is only suspected,
/// then what does not help.
#[must_use]
pub fn fixes(holders: &[Holder], candidates: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = certain(holders, target);
    let suspected = certain(candidates, target).into_iter().map(|fix| Fix {
        text: format!("perhaps: {}", fix.text),
        ..fix
    });
    fixes.extend(suspected);
    // Nobody is killed on suspicion.
    fixes.extend(owners::force(&owners(holders, target)));
    fixes.extend(notes(holders));
    let then = after(target);
    let check = check_command(target);
    for fix in fixes.iter_mut().filter(|fix| fix.action != FixAction::Note) {
        fix.then = Some(then.clone());
        fix.check.clone_from(&check);
    }
    fixes
}

fn certain(holders: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = kernel::child_mounts(holders, target);
    fixes.extend(released(holders, target));
    joined(&mut fixes);
    let owners = owners(holders, target);
    fixes.extend(
        owners
            .iter()
            .take(MAX_OWNERS)
            .filter_map(|owner| copies::detach(owner, target)),
    );
    fixes.extend(owners.iter().find_map(copies::narrow));
    fixes
}

/// What lets go of the references themselves.
pub(super) fn released(holders: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = kernel::held(holders);
    let owners = owners(holders, target);
    fixes.extend(owners.iter().take(MAX_OWNERS).map(Owner::release));
    if owners.len() > MAX_OWNERS {
        let more = owners.len() - MAX_OWNERS;
        fixes.push(Fix::change(format!("do the same for {more} other holders")));
    }
    fixes
}

/// One after the other: all of them have to be done.
pub(super) fn joined(fixes: &mut [Fix]) {
    for fix in fixes.iter_mut().skip(1) {
        fix.text.insert_str(0, "and ");
    }
}

/// What people try, and what comes of it.
fn notes(holders: &[Holder]) -> Vec<Fix> {
    let mut notes = Vec::new();
    let deferred = |holder: &&Holder| holder.kind == Kind::Deferred && holder.process.is_none();
    if holders.iter().any(|holder| deferred(&holder)) {
        notes.push("killing does not help against what no process has: it is gone from all of them already");
    }
    if holders.iter().any(|holder| !deferred(&holder)) {
        notes.push(
            "umount -l of the target only hides it: its space and its device stay busy until the last holder ends",
        );
    }
    notes.into_iter().map(Fix::note).collect()
}
