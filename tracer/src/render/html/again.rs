//! Since when a mount is stuck, and when its umount is expected again.

use jiff::tz::TimeZone;

use super::text::{Name, Page};
use crate::{
    model::{Incident, IncidentBody, Outcome, Retry},
    render::times::{duration, moment},
};

/// What is known of it from before, and of who comes back by the pauses that were seen.
pub(super) fn again(page: &mut Page, incident: &Incident, zone: &TimeZone) {
    let IncidentBody::Umount(umount) = &incident.body else {
        return;
    };
    if incident.outcome.is_some_and(Outcome::is_over) {
        return;
    }
    let now = incident.seen_at();
    if let Some(since) = &umount.since {
        page.put(format_args!(
            "<p>Stuck since {} at the latest ({}).</p>\n",
            moment(since.time, now, zone),
            since.source.words()
        ));
    }
    let next = |retry: &Retry| Some((retry.next?, *retry.pauses.last()?));
    if let Some(retry) = &umount.retry
        && let Some((next, pause)) = next(retry)
    {
        page.put(format_args!(
            "<p>The next attempt, by <b>{}</b>, is expected about {}: the last pause was {}.</p>\n",
            Name(retry.by.as_bytes()),
            moment(next, now, zone),
            duration((pause * 1e9) as i64)
        ));
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{Page, again};
    use crate::{
        model::{Outcome, Retry, RetrySource, Since, SinceSource},
        render::samples::{self, at},
    };

    #[test]
    fn only_of_what_is_not_over() {
        let text = |outcome: Option<Outcome>| {
            let mut incident = samples::incident(Vec::new());
            incident.outcome = outcome;
            let umount = samples::umount_of(&mut incident);
            umount.since = Some(Since {
                time: at(-400_000),
                source: SinceSource::Attempt,
            });
            umount.retry = Some(Retry {
                by: "<shim>".to_owned(),
                source: RetrySource::Observed,
                pauses: vec![2.0, 4.1],
                next: Some(at(10_863)),
                within: None,
            });
            let mut page = Page::default();
            again(&mut page, &incident, &TimeZone::UTC);
            page.0
        };
        let text_of_open = text(None);
        assert!(
            text_of_open.contains("Stuck since 03:36:37 at the latest (an attempt)."),
            "{text_of_open}"
        );
        let next = "by <b>&#39;&lt;shim&gt;&#39;</b>, is expected about 03:43:27: the last pause was 4.09 s.";
        assert!(text_of_open.contains(next), "{text_of_open}");
        assert_eq!(text(Some(Outcome::Released)), "");
    }
}
