//! What to do about holders. Nothing of it is done by ebusy itself.
//!
//! The least harmful thing comes first, and what a command interrupts stands beside it. All that comes from others is
//! quoted for a shell where it is part of a command, and escaped where it is not.

mod copies;
mod kernel;
mod nobody;
mod owners;
#[cfg(test)]
mod tests;

pub use self::nobody::{fixes_of_asked, fixes_of_refused};
use self::owners::{Owner, owners};
pub(super) use self::{copies::mountpoint_seen, owners::ending};
use super::{report::check_command, retry::after};
use crate::model::{Fix, FixAction, Holder, Kind, Target};

/// Owners that are told one by one.
const MAX_OWNERS: usize = 8;

/// What frees the target, in words: [`fixes`] without what does not help.
#[must_use]
pub fn advise(holders: &[Holder], target: &Target) -> Vec<String> {
    texts(&fixes(holders, &[], target))
}

/// The words of what helps.
#[must_use]
pub fn texts(fixes: &[Fix]) -> Vec<String> {
    fixes
        .iter()
        .filter(|fix| !matches!(fix.action, FixAction::Note | FixAction::Force))
        .map(|fix| fix.text.clone())
        .collect()
}

/// Advice of which there are only words, as that of other operations than umount.
#[must_use]
pub fn fixes_of_words(advice: &[String]) -> Vec<Fix> {
    let fix = |text: &String| Fix {
        text: text.clone(),
        action: FixAction::Change,
        command: None,
        interrupts: None,
        then: None,
        check: None,
    };
    advice.iter().map(fix).collect()
}

/// What frees the target, least harmful first: one entry for every owner, then other ways, then what is only suspected,
/// then what does not help.
#[must_use]
pub fn fixes(holders: &[Holder], candidates: &[Holder], target: &Target) -> Vec<Fix> {
    let mut steps = certain(holders, target);
    let suspected = certain(candidates, target).into_iter().map(|step| Step {
        text: format!("perhaps: {}", step.text),
        ..step
    });
    steps.extend(suspected);
    // Nobody is killed on suspicion.
    steps.extend(owners::force(&owners(holders, target)));
    steps.extend(notes(holders));
    let then = after(target);
    let check = check_command(target);
    steps
        .into_iter()
        .map(|step| {
            let frees = step.action != FixAction::Note;
            Fix {
                text: step.text,
                action: step.action,
                command: step.command,
                interrupts: step.interrupts,
                then: frees.then(|| then.clone()),
                check: check.clone().filter(|_| frees),
            }
        })
        .collect()
}

fn certain(holders: &[Holder], target: &Target) -> Vec<Step> {
    let mut steps = kernel::child_mounts(holders, target);
    steps.extend(kernel::held(holders));
    let owners = owners(holders, target);
    steps.extend(owners.iter().take(MAX_OWNERS).map(Owner::release));
    for step in steps.iter_mut().skip(1) {
        step.text.insert_str(0, "and ");
    }
    if owners.len() > MAX_OWNERS {
        let more = owners.len() - MAX_OWNERS;
        steps.push(Step::change(format!("and the same for {more} other holders")));
    }
    steps.extend(
        owners
            .iter()
            .take(MAX_OWNERS)
            .filter_map(|owner| copies::detach(owner, target)),
    );
    steps.extend(owners.iter().find_map(copies::narrow));
    steps
}

/// What people try, and what comes of it.
fn notes(holders: &[Holder]) -> Vec<Step> {
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
    notes.into_iter().map(Step::note).collect()
}

/// A [`Fix`] before what all of them have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    text: String,
    action: FixAction,
    command: Option<String>,
    interrupts: Option<String>,
}

impl Step {
    fn change(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            action: FixAction::Change,
            command: None,
            interrupts: None,
        }
    }

    fn wait(text: impl Into<String>) -> Self {
        Self {
            action: FixAction::Wait,
            ..Self::change(text)
        }
    }

    fn note(text: impl Into<String>) -> Self {
        Self {
            action: FixAction::Note,
            ..Self::change(text)
        }
    }

    /// `text` leads to the command; what it interrupts stands behind it in parentheses.
    fn command(text: &str, command: String, interrupts: &str) -> Self {
        let behind = if interrupts.is_empty() {
            String::new()
        } else {
            format!(" ({interrupts})")
        };
        Self {
            text: format!("{text}: {command}{behind}"),
            action: FixAction::Command,
            command: Some(command),
            interrupts: Some(interrupts.to_owned()).filter(|text| !text.is_empty()),
        }
    }
}
