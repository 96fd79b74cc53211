//! The books and the state of an incident, a line each.

use jiff::tz::TimeZone;

use super::times::{between, clock, duration, moment};
use crate::{
    advice::{by_itself, retries_by_rule},
    model::{
        Books, Holder, Incident, Kind, Outcome, Refusals, RefusedUmount, Retry, Target, Tier, Timestamp,
    },
    text::{Line, printable, short_name},
};

/// What the books line is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account<'a> {
    pub(super) books: &'a Books,
    pub(super) holders: &'a [Holder],
    pub(super) target: &'a Target,
    /// Refused attempts; `None` where nothing was attempted.
    pub(super) attempts: Option<u64>,
    /// Records lost; `None` where nothing was recorded.
    pub(super) lost: Option<u64>,
    pub(super) probe: Tier,
}

/// `2 counted = 2 explained + 0 unexplained ...; 0 lost; tier fentry`.
pub(super) fn books(account: Account<'_>) -> String {
    let Account {
        books,
        holders,
        target,
        attempts,
        lost,
        probe,
    } = account;
    let explained = books.explained;
    let sampled = attempts.is_none() || books.sampled_at.is_some();
    let line = Line::new("BOOKS");
    let line = match (books.counted, books.unexplained) {
        (Some(counted), _) if books.overexplained > 0 => line.words(format!(
            "{counted} counted, {explained} explained: {} too many, came or went meanwhile",
            books.overexplained
        )),
        (Some(counted), Some(unexplained)) => line.words(format!(
            "{counted} counted = {explained} explained + {unexplained} unexplained"
        )),
        _ if !sampled => line.words("no snapshot was taken in time"),
        (Some(counted), None) => line.words(format!("{counted} counted, {explained} explained")),
        (None, _) => line.words(format!("not counted at this tier, {explained} explained")),
    };
    let counted = || holders.iter().filter(|holder| holder.counted);
    // An open regular file of overlayfs has a second one behind it.
    let backed =
        |holder: &Holder| holder.refs == 2 && matches!(holder.kind, Kind::Fd | Kind::Exe | Kind::Mmap);
    let overlay = target.fs_type.as_deref() == Some("overlay") && counted().any(backed);
    let line = if overlay && sampled {
        line.maybe(1, " (overlay file: 2)")
    } else {
        line
    };
    let line = match books.remaining {
        Some(remaining) if remaining > 0 => line.words(format!(", {remaining} more on other copies")),
        _ => line,
    };
    let line = if books.changed_during_snapshot == Some(true) {
        line.words(", changing")
    } else {
        line
    };
    let line = match attempts {
        Some(all) if all > 1 && sampled && counted().next().is_some() => {
            let same = counted().all(|holder| holder.attempts_blocked >= all);
            line.maybe(
                2,
                if same {
                    format!(", the same in {all} of {all} attempts")
                } else {
                    format!(", not the same in all {all} attempts")
                },
            )
        }
        _ => line,
    };
    let line = match lost {
        Some(lost) => line.words(format!("; {lost} lost")),
        None => line,
    };
    line.words(format!("; tier {probe}")).finish()
}

/// What the look for holders could not see.
pub(super) fn unseen(books: &Books) -> Option<String> {
    let (first, rest) = books.gaps.split_first()?;
    let line = Line::new("UNSEEN").words(printable(first));
    let line = match rest.len() {
        0 => line,
        more => line.words(format!(", and {more} more (`gaps` of the JSON)")),
    };
    Some(line.finish())
}

/// How it went on, and whether it will.
pub(super) fn state(
    incident: &Incident,
    refusals: &Refusals,
    known: Option<&Retry>,
    zone: &TimeZone,
) -> String {
    let line = Line::new("STATE");
    let until = last_attempt(incident);
    let took = duration(between(incident.started, until));
    let ended = incident.ended.unwrap_or(until);
    let took_in_all = duration(between(incident.started, ended));
    let attempts = match (refusals.attempts, refusals.bursts) {
        (1, _) => "1 attempt".to_owned(),
        (attempts, 0 | 1) => format!("{attempts} attempts"),
        (attempts, bursts) => format!("{attempts} attempts in {bursts} bursts"),
    };
    let line = match incident.outcome {
        None => line.words(format!(
            "still refused after {took}, {attempts} ({})",
            clock(until, zone)
        )),
        Some(Outcome::Released) => line.words(format!(
            "released after {took_in_all}, {attempts} refused ({})",
            clock(ended, zone)
        )),
        Some(Outcome::Detached) => line
            .words(format!(
                "detached after {took_in_all}, {attempts} refused ({})",
                clock(ended, zone)
            ))
            .words("; lives on hidden until its holders end"),
        Some(Outcome::GaveUp) => line.words(format!(
            "gave up after {took}, {attempts} ({})",
            clock(until, zone)
        )),
        Some(Outcome::Gone) => line.words(format!(
            "gone after {took_in_all}, {attempts} refused ({}): its mount namespace ended",
            clock(ended, zone)
        )),
        // Of no incident that has refusals.
        Some(Outcome::Failed) => line.words("failed"),
        Some(Outcome::StillBusy) => line.words(format!(
            "still busy when ebusy stopped, {took_in_all} after the first of {attempts} ({})",
            clock(ended, zone)
        )),
    };
    let over = incident.outcome.is_some_and(Outcome::is_over);
    match retry(incident, known).filter(|_| !over) {
        Some(retry) => line.maybe(2, format!("; {retry}")),
        None => line,
    }
    .finish()
}

/// The last refused attempt: the references are looked for right after it.
fn last_attempt(incident: &Incident) -> Timestamp {
    let sampled = incident.references.sampled_at;
    sampled
        .or(incident.ended)
        .unwrap_or(incident.started)
        .max(incident.started)
}

/// What is known from before, and of who comes back by the pauses that were seen.
pub(super) fn again(incident: &Incident, umount: &RefusedUmount, zone: &TimeZone) -> Option<String> {
    let over = incident.outcome.is_some_and(Outcome::is_over);
    let now = incident.seen_at();
    let since = umount.since.as_ref().filter(|_| !over).map(|since| {
        format!(
            "stuck since {} at the latest ({})",
            moment(since.time, now, zone),
            since.source.words()
        )
    });
    let next = umount.retry.as_ref().filter(|_| !over).and_then(|retry| {
        Some(format!(
            "{} again about {} (paused {})",
            short_name(retry.by.as_bytes()),
            moment(retry.next?, now, zone),
            duration((retry.pauses.last()? * 1e9) as i64)
        ))
    });
    let words: Vec<String> = [since, next].into_iter().flatten().collect();
    (!words.is_empty()).then(|| {
        let mut line = Line::new("AGAIN");
        for (index, words) in words.into_iter().enumerate() {
            line = if index == 0 {
                line.words(words)
            } else {
                line.maybe(1, format!("; {words}"))
            };
        }
        line.finish()
    })
}

/// Who comes back without being asked, by the rule; what was seen is told by [`again`].
fn retry(incident: &Incident, known: Option<&Retry>) -> Option<String> {
    let by_rule = || retries_by_rule(&incident.caller, &incident.target);
    by_itself(&known.cloned().or_else(by_rule)?)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{Account, again, books, state};
    use crate::{
        model::{Books, Incident, Outcome, Parent, Retry, RetrySource, Since, SinceSource},
        render::samples::{self, at, umount_of},
    };

    fn account(change: impl FnOnce(&mut Incident)) -> String {
        let mut incident = samples::incident(vec![samples::holder()]);
        change(&mut incident);
        books(Account {
            books: &incident.references,
            holders: &incident.holders,
            target: &incident.target,
            attempts: Some(incident.attempts()),
            lost: Some(incident.lost_events),
            probe: incident.probe,
        })
    }

    fn of_umount(incident: &mut Incident) -> String {
        let umount = umount_of(incident).clone();
        state(incident, &umount.refusals, umount.retry.as_ref(), &TimeZone::UTC)
    }

    #[test]
    fn books_that_balance_and_books_that_do_not() {
        let all = [
            account(|_| {}),
            account(|incident| umount_of(incident).refusals.attempts = 1),
            account(|incident| incident.holders[0].attempts_blocked = 7),
            account(|incident| {
                incident.references = samples::books(3, 2);
                incident.references.remaining = Some(4);
                incident.references.changed_during_snapshot = Some(true);
            }),
            account(|incident| incident.references = samples::books(1, 2)),
            account(|incident| {
                incident.references = Books {
                    counted: None,
                    unexplained: None,
                    ..samples::books(0, 2)
                }
            }),
            account(|incident| incident.references = Books::default()),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        BOOKS  2 counted = 2 explained + 0 unexplained, the same in 50 of 50 attempts; 0 lost; tier fentry
        BOOKS  2 counted = 2 explained + 0 unexplained (overlay file: 2); 0 lost; tier fentry
        BOOKS  2 counted = 2 explained + 0 unexplained, not the same in all 50 attempts; 0 lost; tier fentry
        BOOKS  3 counted = 2 explained + 1 unexplained, 4 more on other copies, changing; 0 lost; tier fentry
        BOOKS  1 counted, 2 explained: 1 too many, came or went meanwhile; 0 lost; tier fentry
        BOOKS  not counted at this tier, 2 explained, the same in 50 of 50 attempts; 0 lost; tier fentry
        BOOKS  no snapshot was taken in time; 0 lost; tier fentry
        "#);
    }

    #[test]
    fn states() {
        let text = |outcome: Option<Outcome>, change: &dyn Fn(&mut Incident)| {
            let mut incident = samples::incident(vec![samples::holder()]);
            incident.outcome = outcome;
            incident.ended = outcome.map(|_| at(32_463));
            change(&mut incident);
            of_umount(&mut incident)
        };
        let nothing = |_: &mut Incident| {};
        let all = [
            text(None, &nothing),
            text(Some(Outcome::GaveUp), &nothing),
            text(Some(Outcome::Released), &nothing),
            text(Some(Outcome::Detached), &nothing),
            text(Some(Outcome::Gone), &nothing),
            text(Some(Outcome::StillBusy), &nothing),
            text(Some(Outcome::GaveUp), &|incident| {
                umount_of(incident).refusals.callers[0].comm = "umount".into();
                incident.caller.comm = "umount".into();
                incident.caller.parents = vec![Parent {
                    pid: 7,
                    comm: "kubelet".into(),
                    ..Parent::default()
                }];
                umount_of(incident).refusals.bursts = 3;
            }),
            text(Some(Outcome::GaveUp), &|incident| {
                incident.target.container = None;
            }),
            text(Some(Outcome::Released), &|incident| {
                umount_of(incident).refusals.attempts = 1;
                incident.references = Books::default();
            }),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        STATE  still refused after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        STATE  gave up after 2.46 s, 50 attempts (03:43:19); containerd retries by itself, within 5 min
        STATE  released after 32 s, 50 attempts refused (03:43:49)
        STATE  detached after 32 s, 50 attempts refused (03:43:49); lives on hidden until its holders end
        STATE  gone after 32 s, 50 attempts refused (03:43:49): its mount namespace ended
        STATE  still busy when ebusy stopped, 32 s after the first of 50 attempts (03:43:49)
        STATE  gave up after 2.46 s, 50 attempts in 3 bursts (03:43:19)
        STATE  gave up after 2.46 s, 50 attempts (03:43:19)
        STATE  released after 32 s, 1 attempt refused (03:43:49)
        "#);
    }

    #[test]
    fn since_when_and_when_again() {
        let text = |outcome: Option<Outcome>, since: bool, next: bool| {
            let mut incident = samples::incident(vec![samples::holder()]);
            incident.outcome = outcome;
            incident.ended = outcome.map(|_| at(32_463));
            let umount = umount_of(&mut incident);
            umount.since = since.then(|| Since {
                time: at(-400_000),
                source: SinceSource::Attempt,
            });
            umount.retry = Some(Retry {
                by: "containerd-shim".to_owned(),
                source: RetrySource::Observed,
                pauses: vec![2.0, 4.1],
                next: next.then(|| at(10_863)),
                within: Some(300),
            });
            format!(
                "{}\n{}",
                of_umount(&mut incident),
                again(&incident, umount_of(&mut incident.clone()), &TimeZone::UTC).unwrap_or_default()
            )
        };
        let all = [
            text(None, true, true),
            text(Some(Outcome::GaveUp), false, true),
            text(Some(Outcome::GaveUp), true, false),
            text(Some(Outcome::Released), true, true),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        STATE  still refused after 2.46 s, 50 attempts (03:43:19)
        AGAIN  stuck since 03:36:37 at the latest (an attempt); containerd-shim again about 03:43:27 (paused 4.09 s)
        STATE  gave up after 2.46 s, 50 attempts (03:43:19)
        AGAIN  containerd-shim again about 03:43:27 (paused 4.09 s)
        STATE  gave up after 2.46 s, 50 attempts (03:43:19)
        AGAIN  stuck since 03:36:37 at the latest (an attempt)
        STATE  released after 32 s, 50 attempts refused (03:43:49)
        "#);
    }
}
