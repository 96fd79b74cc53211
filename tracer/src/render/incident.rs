//! An incident as text.

use super::{
    Style,
    advice::advise,
    books::{Account, books, state},
    holder::View,
    line::Line,
    names,
    report::{Report, check},
};
use crate::model::{Incident, Outcome};

/// The incident in at most 14 lines of 110 columns.
#[must_use]
pub fn incident(incident: &Incident, style: &Style) -> String {
    let computed;
    let advice = if incident.advice.is_empty() {
        computed = advise(&incident.holders, &incident.target);
        &computed
    } else {
        &incident.advice
    };
    let now = incident
        .references
        .sampled_at
        .or(incident.ended)
        .unwrap_or(incident.started);
    let released = matches!(
        incident.outcome,
        Some(Outcome::Released | Outcome::Detached | Outcome::Gone)
    );
    let account = Account {
        books: &incident.references,
        holders: &incident.holders,
        target: &incident.target,
        attempts: Some(incident.attempts),
        lost: Some(incident.lost_events),
        probe: &incident.probe,
    };
    Report {
        verdict: verdict(incident),
        holders: &incident.holders,
        no_holder: incident.holders.is_empty().then(|| no_holder(incident)),
        candidates: &incident.candidates,
        bystanders: &incident.bystanders,
        view: View {
            target: &incident.target,
            attempts: Some(incident.attempts),
            now,
            zone: &style.zone,
        },
        account: vec![books(account), state(incident, &style.zone)],
        advice,
        check: (!released).then(|| check(&incident.target)),
    }
    .write(style)
}

fn verdict(incident: &Incident) -> String {
    let line = Line::new("EBUSY").with(|line| names::target(line, &incident.target));
    let line = line
        .words(", refused to ")
        .with(|line| names::caller(line, &incident.caller));
    let others = incident
        .callers
        .iter()
        .filter(|caller| caller.pid != incident.caller.pid)
        .count();
    let line = if others > 0 {
        line.maybe(6, format!(" and {others} more"))
    } else {
        line
    };
    if incident.flags.is_empty() {
        line
    } else {
        line.maybe(1, format!(", {}", incident.flags.join("|")))
    }
    .finish()
}

/// What it means that nobody was found.
fn no_holder(incident: &Incident) -> String {
    let books = &incident.references;
    let line = Line::new("HOLDER");
    match (books.sampled_at, books.counted) {
        (None, _) => line.words("unknown: nobody was looked for, as no snapshot could be taken after the refusal"),
        (_, Some(0)) => line.words("none any more: it was gone before ebusy looked, right after the attempt"),
        (_, Some(_)) => line.words(
            "none found: no open file, directory, mapping or mount of a live process; something in the kernel",
        ),
        (_, None) => line.words("none found, and the references are not counted: there may be one"),
    }
    .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::incident;
    use crate::{
        model::{Books, Holder, Incident, Kind, Outcome, Parent, Through},
        render::{
            Style,
            samples::{self, plain},
        },
    };

    fn style() -> Style {
        Style {
            terminal: false,
            zone: TimeZone::UTC,
        }
    }

    fn text(of: &Incident) -> String {
        incident(of, &style())
    }

    #[test]
    fn one_holder() {
        insta::assert_snapshot!(text(&samples::incident(vec![samples::holder()])), @"");
    }

    #[test]
    fn two_holders_and_a_bystander() {
        let mut of = samples::incident(vec![samples::holder(), plain(412, "bash", Kind::Cwd, "/var")]);
        let private = Holder {
            through: Through::PrivateCopy,
            ..plain(900, "scanner", Kind::Fd, "/etc/passwd")
        };
        of.bystanders = vec![private];
        insta::assert_snapshot!(text(&of), @"");
    }

    #[test]
    fn five_holders() {
        let mut holders = vec![samples::holder()];
        holders.extend((1..5).map(|index| plain(400 + index, "tail", Kind::Fd, "/var/log/messages")));
        insta::assert_snapshot!(text(&samples::incident(holders)), @"");
    }

    #[test]
    fn nine_holders() {
        let holders = (0..9)
            .map(|index| plain(400 + index, "tail", Kind::Fd, "/var/log/messages"))
            .collect();
        let mut of = samples::incident(holders);
        of.candidates = vec![plain(77, "loop", Kind::Fd, "/disk.img")];
        of.bystanders = (0..5)
            .map(|index| plain(500 + index, "idle", Kind::Fd, "/x"))
            .collect();
        insta::assert_snapshot!(text(&of), @"");
    }

    #[test]
    fn nobody_found() {
        let mut of = samples::incident(Vec::new());
        of.references = samples::books(1, 0);
        of.outcome = None;
        of.ended = None;
        insta::assert_snapshot!(text(&of), @"");
        of.references = samples::books(0, 0);
        assert!(text(&of).contains("HOLDER none any more: "));
        of.references = Books {
            counted: None,
            unexplained: None,
            ..of.references
        };
        assert!(text(&of).contains("HOLDER none found, and the references are not counted"));
        of.references = Books::default();
        assert!(text(&of).contains("HOLDER unknown: ") && text(&of).contains("BOOKS  no snapshot"));
    }

    #[test]
    fn a_plain_mount_and_a_person() {
        let mut of = samples::incident(vec![plain(412, "bash", Kind::Cwd, "/")]);
        of.target.path = "/mnt/data".into();
        of.target.container = None;
        of.target.fs_type = Some("ext4".into());
        of.holders[0].seen_as = Some("/mnt/data".into());
        of.caller.comm = "umount".into();
        of.callers[0].comm = "umount".into();
        of.caller.parents = vec![Parent {
            pid: 300,
            comm: "fish".into(),
        }];
        of.attempts = 1;
        of.flags = vec!["UMOUNT_NOFOLLOW".into()];
        of.outcome = Some(Outcome::Released);
        of.advice.clear();
        of.probe = "tracepoint".into();
        insta::assert_snapshot!(text(&of), @"");
    }

    #[test]
    fn on_a_terminal_only_labels_are_set_off() {
        let mut of = samples::incident(vec![samples::holder()]);
        of.holders[0].path = "/\x1b[31mred".into();
        let text = incident(
            &of,
            &Style {
                terminal: true,
                zone: TimeZone::UTC,
            },
        );
        assert!(text.starts_with("\x1b[1;31mEBUSY  \x1b[0mrootfs of"));
        assert!(text.contains("\x1b[1mHOLDER \x1b[0m") && text.contains("/\\x1b[31mred"));
        assert_eq!(text.matches('\x1b').count(), 12);
    }
}
