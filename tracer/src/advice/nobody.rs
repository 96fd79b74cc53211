//! What to do where nobody was found: how to see who it was while it lasts, or the next time.

use super::{check::check_command, umount::of_holders};
use crate::{
    model::{Books, Fix, Holder, Target, Tier},
    text::Command,
};

/// What frees a target that was refused; where nobody was found, what tells more.
pub(super) fn of_refused(
    holders: &[Holder],
    candidates: &[Holder],
    books: &Books,
    tier: Tier,
    target: &Target,
) -> Vec<Fix> {
    if holders.is_empty() && candidates.is_empty() {
        fixes_for_nobody(books, tier, target)
    } else {
        of_holders(holders, candidates, target)
    }
}

/// The same of a target that was only looked at: nothing is to be done where nothing blocks.
pub(super) fn of_asked(
    holders: &[Holder],
    candidates: &[Holder],
    books: &Books,
    tier: Tier,
    target: &Target,
) -> Vec<Fix> {
    if books.counted == Some(0) && books.remaining == Some(0) {
        of_holders(holders, candidates, target)
    } else {
        of_refused(holders, candidates, books, tier, target)
    }
}

/// What tells more; none of it frees the target.
fn fixes_for_nobody(books: &Books, tier: Tier, target: &Target) -> Vec<Fix> {
    let there = books.sampled_at.is_some() && books.counted.is_some_and(|counted| counted > 0);
    if there {
        lasting(target)
    } else {
        momentary(tier, target)
    }
}

/// The references were still there when they were looked for.
fn lasting(target: &Target) -> Vec<Fix> {
    let again = "look again while it is refused, for what comes and goes";
    let look = check_command(target).unwrap_or_else(|| Command::new(&["ebusy", "who"]));
    vec![
        Fix::look(again, look),
        Fix::wait("or wait and try again: what no process has, the kernel may drop by itself"),
    ]
}

/// They were gone, or nobody can say.
fn momentary(tier: Tier, target: &Target) -> Vec<Fix> {
    if tier == Tier::Proc {
        return vec![Fix::look(
            "without the kernel's memory only descriptors and child mounts are seen; what the kernel would allow, and \
             what mends it",
            Command::new(&["ebusy", "doctor"]),
        )];
    }
    let record = |words: &[&'static str]| only(Command::new(words).words(&["-o", "DIR"]), target);
    if tier == Tier::Tracepoint {
        // Releases are not seen there, so that what was open for a moment proves nothing.
        return vec![
            Fix::look(
                "to catch who holds it for a moment, watch at a tier that sees every open and close (ebusy doctor says \
                 whether this kernel has one)",
                only(Command::new(&["ebusy", "watch", "--probe", "fentry"]), target),
            ),
            Fix::look(
                "or record who opens its files, for ebusy export DIR --to jsonl",
                record(&["ebusy", "record", "--history"]),
            ),
        ];
    }
    vec![Fix::look(
        "to catch who holds it for a moment, record from before it is opened, for ebusy report DIR",
        record(&["ebusy", "record"]),
    )]
}

/// The mounts of containers are watched anyway; others have to be said: by their path where that is no pattern and can
/// be typed, else `PATH` stands for it.
fn only(command: Command, target: &Target) -> Command {
    if target.container.is_some() {
        return command;
    }
    let command = command.words(&["--target"]);
    let path = target.path.as_bytes();
    let pattern = path.iter().any(|byte| b"*?[]{}!\\".contains(byte));
    let typed = command.clone().path(path).filter(|_| !pattern);
    typed.unwrap_or_else(|| command.words(&["PATH"]))
}

#[cfg(test)]
mod tests {
    use super::fixes_for_nobody;
    use crate::model::{Books, FixAction, Target, Text, Tier, samples};

    fn plain() -> Target {
        Target {
            path: "/srv/volume".into(),
            ..Target::default()
        }
    }

    #[test]
    fn what_was_there_is_looked_for_again() {
        let fixes = fixes_for_nobody(&samples::books(1, 0), Tier::Fentry, &plain());
        assert_eq!(
            samples::read(&fixes),
            [
                "look again while it is refused, for what comes and goes: ebusy who /srv/volume",
                "or wait and try again: what no process has, the kernel may drop by itself"
            ]
        );
        assert_eq!(fixes[0].action, FixAction::Look);
        // None of it frees the target.
        assert!(fixes.iter().all(|fix| fix.then.is_none() && fix.check.is_none()));
    }

    #[test]
    fn what_was_gone_is_caught_the_next_time() {
        let uncounted = Books {
            counted: None,
            ..samples::books(0, 0)
        };
        let words = |books: &Books, tier: Tier, target: &Target| {
            samples::read(&fixes_for_nobody(books, tier, target))
        };
        assert_eq!(
            words(&uncounted, Tier::Tracepoint, &plain()),
            [
                "to catch who holds it for a moment, watch at a tier that sees every open and close (ebusy doctor says \
                 whether this kernel has one): ebusy watch --probe fentry --target /srv/volume",
                "or record who opens its files, for ebusy export DIR --to jsonl: ebusy record --history -o DIR --target \
                 /srv/volume"
            ]
        );
        let record = "to catch who holds it for a moment, record from before it is opened, for ebusy report DIR: ebusy \
                      record -o DIR";
        assert_eq!(
            words(&samples::books(0, 0), Tier::Kprobe, &samples::target()),
            [record]
        );
        let doctor = "without the kernel's memory only descriptors and child mounts are seen; what the kernel would \
                      allow, and what mends it: ebusy doctor";
        assert_eq!(words(&uncounted, Tier::Proc, &plain()), [doctor]);
        let pattern = Target {
            path: "/srv/[a]".into(),
            ..Target::default()
        };
        let record = format!("{record} --target PATH");
        assert_eq!(
            words(&Books::default(), Tier::Fentry, &pattern),
            [record.as_str()]
        );
        let long = Target {
            path: Text::from(format!("/srv/{}", "a".repeat(4_090))),
            ..Target::default()
        };
        assert_eq!(words(&Books::default(), Tier::Fentry, &long), [record.as_str()]);
    }
}
