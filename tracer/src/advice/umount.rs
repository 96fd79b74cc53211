//! What to do about the holders of a mount.

use super::{
    check::check_command,
    child_mounts, copies, kernel,
    owners::{self, MAX_OWNERS, Owner, owners},
    retry::after,
};
use crate::model::{Fix, FixAction, Holder, Kind, Target};

/// What frees the target, least harmful first: one entry for every owner, then other ways, then what is only suspected,
/// then what does not help.
pub(super) fn of_holders(holders: &[Holder], candidates: &[Holder], target: &Target) -> Vec<Fix> {
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

/// What an umount of a process's own root means.
const REMOUNT: &str = "umount of a process's own root directory only remounts it read-only, which a file open for writing refuses";

/// What frees the root directory of whoever unmounts it.
pub(super) fn of_own_root(holders: &[Holder], candidates: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = of_holders(holders, candidates, target);
    fixes.push(Fix::change(REMOUNT));
    fixes
}

fn certain(holders: &[Holder], target: &Target) -> Vec<Fix> {
    let mut fixes = child_mounts::unmounted(holders, target);
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
