//! An umount2 that takes long.

use jiff::tz::TimeZone;

use super::text::{Name, Page, Words, row};
use crate::{
    model::{Incident, Outcome, Slow},
    render::{
        slow::words,
        times::{between, duration},
    },
    text::said,
};

/// ` took long to unmount: writing back dirty data (sync), waits for the disk.`
pub(super) fn verdict(page: &mut Page, slow: &Slow) {
    let words = match slow.waits.first() {
        Some(wait) => words(wait),
        None => "where it waited was not seen".to_owned(),
    };
    page.put(format_args!(" took long to unmount: {}.", Words(&words)));
}

pub(super) fn state(page: &mut Page, incident: &Incident, slow: &Slow, zone: &TimeZone) {
    let ended = incident.ended.unwrap_or(incident.started);
    let took = duration(between(incident.started, ended));
    let class = incident.outcome.map_or("", Outcome::name);
    let words = match (&slow.error, incident.outcome) {
        (Some(error), _) => format!("It failed with {} after {took}.", said(error.as_bytes())),
        (None, Some(Outcome::StillBusy)) => format!("It was not over when the capture ended, {took} later."),
        (None, _) => format!("It took {took}."),
    };
    page.put(format_args!(
        "<p><span class=\"tag {class}\">slow umount</span> Called on {}, by <b>{}</b> (pid {}). {}</p>\n<dl>\n",
        super::summary::date(incident.started, zone),
        Name(incident.caller.comm.as_bytes()),
        incident.caller.pid,
        Words(&words),
    ));
    for wait in &slow.waits {
        let function = wait.function.as_deref().map_or_else(String::new, |function| {
            format!(" ({})", said(function.as_bytes()))
        });
        let looks = format!("{} of {} looks", wait.looks, slow.looks);
        row(page, &looks, &format!("{}{function}", self::words(wait)));
    }
    page.put(format_args!("</dl>\n"));
}
