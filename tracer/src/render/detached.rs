//! A mount that was detached and lives on, as text: nothing was refused, but it is in use.

use jiff::tz::TimeZone;

use super::{
    Style,
    books::{Account, books, unseen},
    names,
    noise::noise,
    report::Report,
    times::{between, clock, duration},
    view::View,
};
use crate::{
    model::{Incident, Outcome},
    text::Line,
};

/// The incident in at most 18 lines of 110 columns.
pub(super) fn report(incident: &Incident, style: &Style) -> String {
    let sampled = incident.references.sampled_at;
    let account = Account {
        books: &incident.references,
        holders: &incident.holders,
        target: &incident.target,
        attempts: None,
        lost: Some(incident.lost_events),
        probe: incident.probe,
    };
    Report {
        verdict: verdict(incident),
        holders: &incident.holders,
        no_holder: incident.holders.is_empty().then(|| {
            Line::new("HOLDER")
                .words("none found: the kernel, or what ebusy does not see, has the last reference")
                .finish()
        }),
        candidates: &[],
        bystanders: &[],
        view: View {
            target: &incident.target,
            attempts: None,
            now: sampled.or(incident.ended).unwrap_or(incident.started),
            zone: &style.zone,
        },
        account: [books(account), state(incident, "umount", &style.zone)]
            .into_iter()
            .chain(unseen(&incident.references))
            .chain(noise(incident))
            .collect(),
        fixes: if incident.outcome == Some(Outcome::Released) {
            &[]
        } else {
            &incident.fixes
        },
        over: false,
        check: None,
    }
    .write(style)
}

fn verdict(incident: &Incident) -> String {
    let now = match incident.outcome {
        Some(Outcome::Released) => ": freed",
        _ => ": still in use",
    };
    Line::new("DETACHED")
        .with(|line| names::target(line, &incident.target))
        .words(", by ")
        .with(|line| names::caller(line, &incident.caller))
        .words(now)
        .finish()
}

/// How long it has lived on, or did, since what was to end it.
pub(super) fn state(incident: &Incident, since: &str, zone: &TimeZone) -> String {
    let until = incident
        .ended
        .or(incident.references.sampled_at)
        .unwrap_or(incident.started);
    let took = duration(between(incident.started, until));
    let words = match incident.outcome {
        Some(Outcome::Released) => format!("freed after {took}"),
        Some(_) => format!("still in use when ebusy stopped, {took} after the {since}"),
        None => format!("in use for {took} since the {since}"),
    };
    Line::new("STATE")
        .words(format!("{words} ({})", clock(until, zone)))
        .finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use crate::{
        advice::advise_incident,
        model::{Access, Books, Holder, Incident, IncidentBody, Kind, Outcome, Process, Target, Timestamp},
        render::{Style, incident, samples},
    };

    fn text(holders: Vec<Holder>, outcome: Option<Outcome>) -> String {
        let target = Target {
            path: "/srv/volume".into(),
            fs_type: Some("tmpfs".into()),
            ..Target::default()
        };
        let of = samples::incident(Vec::new());
        let later = |seconds: i64| Timestamp::from_nanos(of.started.as_nanos() + seconds * 1_000_000_000);
        let mut of = Incident {
            body: IncidentBody::Detached,
            outcome,
            ended: outcome.map(|_| later(41)),
            caller: Process {
                pid: 812,
                comm: "umount".into(),
                ..Process::default()
            },
            references: Books {
                counted: Some(1),
                explained: holders.len() as u64,
                unexplained: Some(1 - holders.len() as u64),
                sampled_at: Some(later(1)),
                ..Books::default()
            },
            target,
            holders,
            ..of
        };
        advise_incident(&mut of);
        let style = Style {
            terminal: false,
            zone: TimeZone::UTC,
        };
        incident(&of, &style)
    }

    fn tail() -> Vec<Holder> {
        vec![Holder {
            kind: Kind::Fd,
            refs: 1,
            counted: true,
            fd: Some(3),
            access: Some(Access::Read),
            path: "/log".into(),
            process: Some(Process {
                pid: 4242,
                comm: "tail".into(),
                ..Process::default()
            }),
            ..Holder::default()
        }]
    }

    #[test]
    fn it_lives_on() {
        insta::assert_snapshot!(text(tail(), None), @r#"
        DETACHED /srv/volume (tmpfs), by umount 812: still in use
        HOLDER tail, pid 4242, fd 3 (read)
          file   in the mount /log
          through  the mount itself
          since  unknown: its open was not seen
        BOOKS  1 counted = 1 explained + 0 unexplained; 0 lost; tier fentry
        STATE  in use for 1.00 s since the umount (03:43:18)
        FIX    have tail close the file, or end it:
                 kill 4242
        "#);
    }

    #[test]
    fn its_last_reference_went() {
        insta::assert_snapshot!(text(tail(), Some(Outcome::Released)), @r"
        DETACHED /srv/volume (tmpfs), by umount 812: freed
        HOLDER tail, pid 4242, fd 3 (read)
          file   in the mount /log
          through  the mount itself
          since  unknown: its open was not seen
        BOOKS  1 counted = 1 explained + 0 unexplained; 0 lost; tier fentry
        STATE  freed after 41 s (03:43:58)
        ");
    }

    #[test]
    fn nobody_is_found_and_ebusy_stops() {
        insta::assert_snapshot!(text(Vec::new(), Some(Outcome::StillBusy)), @r"
        DETACHED /srv/volume (tmpfs), by umount 812: still in use
        HOLDER none found: the kernel, or what ebusy does not see, has the last reference
        BOOKS  1 counted = 0 explained + 1 unexplained; 0 lost; tier fentry
        STATE  still in use when ebusy stopped, 41 s after the umount (03:43:58)
        FIX    the kernel, or what ebusy does not see, has the last reference; it cannot be unmounted again
               see whether it lives still, and what it keeps (DETACH):
                 ebusy audit
        ");
    }
}
