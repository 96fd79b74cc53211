//! Who would block an umount, as text.

use super::{
    Style,
    advice::advise,
    books::{Account, books},
    holder::View,
    line::Line,
    names,
    report::Report,
};
use crate::model::Who;

/// The answer in at most 14 lines of 110 columns.
#[must_use]
pub fn who(who: &Who, style: &Style) -> String {
    let advice = advise(&who.holders, &who.target);
    let account = Account {
        books: &who.references,
        holders: &who.holders,
        target: &who.target,
        attempts: None,
        lost: None,
        probe: &who.probe,
    };
    Report {
        verdict: verdict(who),
        holders: &who.holders,
        no_holder: None,
        candidates: &who.candidates,
        bystanders: &who.bystanders,
        view: View {
            target: &who.target,
            attempts: None,
            now: who.time,
            zone: &style.zone,
        },
        account: vec![books(account)],
        advice: &advice,
        check: None,
    }
    .write(style)
}

fn verdict(who: &Who) -> String {
    let books = &who.references;
    let owners = who.holders.len();
    let (label, words) = match (owners, books.counted, books.remaining) {
        (0, Some(0), None | Some(0)) => ("FREE", ": nothing blocks its umount".to_owned()),
        (0, None, _) => (
            "UNSURE",
            ": no holder found, but references are not counted at this tier".to_owned(),
        ),
        (0, Some(counted), remaining) => {
            let all = counted.saturating_add(remaining.unwrap_or(0));
            (
                "BUSY",
                format!(": {all} references block its umount, but no process was found for them"),
            )
        }
        (1, ..) => ("BUSY", ": 1 holder blocks its umount".to_owned()),
        (many, ..) => ("BUSY", format!(": {many} holders block its umount")),
    };
    Line::new(label)
        .with(|line| names::target(line, &who.target))
        .words(words)
        .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::who;
    use crate::{
        model::{Books, Kind, Who},
        render::{
            Style,
            samples::{self, plain},
        },
    };

    fn text(of: &Who) -> String {
        who(
            of,
            &Style {
                terminal: false,
                zone: TimeZone::UTC,
            },
        )
    }

    #[test]
    fn busy() {
        insta::assert_snapshot!(text(&samples::who(vec![samples::holder()])), @"");
        let two = vec![samples::holder(), plain(412, "bash", Kind::Cwd, "/var")];
        insta::assert_snapshot!(text(&samples::who(two)), @"");
    }

    #[test]
    fn free_unknown_and_unexplained() {
        let mut of = samples::who(Vec::new());
        insta::assert_snapshot!(text(&of), @"");
        of.references = samples::books(2, 0);
        insta::assert_snapshot!(text(&of), @"");
        of.references = Books {
            counted: None,
            unexplained: None,
            ..Books::default()
        };
        insta::assert_snapshot!(text(&of), @"");
    }
}
