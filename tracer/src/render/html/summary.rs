//! The head of the page, and the sums of the capture.

use jiff::tz::TimeZone;

use super::text::{Apart, Page, Words};
use crate::{
    model::Timestamp,
    render::times::{between, duration, format},
    report::{Count, Hour, Summary, said_workload},
};

const HOUR: i64 = 3_600_000_000_000;
/// Hours in the chart at the most; the latest.
const HOURS: i64 = 24 * 7;

/// `2026-11-23 14:39:34`.
pub(super) fn date(time: Timestamp, zone: &TimeZone) -> String {
    format(time, zone, "%Y-%m-%d %H:%M:%S")
}

pub(super) fn header(page: &mut Page, summary: &Summary, source: &str, zone: &TimeZone) {
    page.put(format_args!(
        "<header>\n<h1>Why umounts were refused</h1>\n<p class=\"dim\">"
    ));
    page.put(format_args!("<code>{}</code>", Words(source)));
    if let (Some(from), Some(to)) = (summary.from, summary.to) {
        page.put(format_args!(
            ": {} to {} {} ({}), {} records, {} {} of ebusy",
            date(from, zone),
            date(to, zone),
            format(to, zone, "%Z"),
            duration(between(from, to)),
            summary.records,
            summary.runs,
            if summary.runs == 1 { "run" } else { "runs" },
        ));
    }
    page.put(format_args!(
        ". <a href=\"#guide\">How to read this page</a>.</p>\n</header>\n"
    ));
}

pub(super) fn summary(page: &mut Page, summary: &Summary, zone: &TimeZone) {
    for damage in &summary.damage {
        page.put(format_args!(
            "<p class=\"warn\">The capture is damaged: {}</p>\n",
            Words(damage)
        ));
    }
    page.put(format_args!("<section class=\"card\">\n"));
    if summary.incidents == 0 {
        page.put(format_args!(
            "<p class=\"lead\">No refused umount that was asked for is in this capture ({} in all).</p>\n</section>\n",
            summary.incidents_in_all
        ));
        return;
    }
    if let Some(top) = summary.holders.first() {
        page.put(format_args!(
            "<p class=\"lead\"><b>{}</b> blocked most: {} refused attempts in {}.</p>\n",
            Words(&said_workload(&top.name)),
            top.attempts,
            plural(top.incidents, "incident")
        ));
    }
    page.put(format_args!("<div class=\"figures\">\n"));
    let unexplained = summary.incidents - summary.explained;
    for (number, words) in [
        (summary.incidents, "incidents"),
        (summary.attempts, "refused attempts"),
        (summary.explained, "explained in full"),
        (unexplained, "not in full"),
        (summary.lost_events, "records lost"),
    ] {
        page.put(format_args!(
            "<span><span class=\"big\">{number}</span><span class=\"dim\">{words}</span></span>\n"
        ));
    }
    page.put(format_args!("</div>\n"));
    if summary.incidents_in_all > summary.incidents {
        page.put(format_args!(
            "<p class=\"dim\">Chosen from {} incidents in the capture.</p>\n",
            summary.incidents_in_all
        ));
    }
    page.put(format_args!("<div class=\"grid\">\n"));
    counts(page, "Holders", "blocked attempts", &summary.holders);
    counts(page, "Targets", "refused attempts", &summary.targets);
    pairs(
        page,
        "Outcomes",
        summary
            .outcomes
            .iter()
            .map(|(name, count)| (name.replace('_', " "), *count)),
    );
    pairs(
        page,
        "Kinds of reference",
        summary
            .kinds
            .iter()
            .map(|(name, count)| (name.replace('_', " "), *count)),
    );
    page.put(format_args!("</div>\n"));
    if !summary.recurrences.is_empty() {
        page.put(format_args!("<h3>Again and again</h3>\n"));
        for again in &summary.recurrences {
            page.put(format_args!(
                "<p>{} blocked {} different targets on {}, from {} to {}.</p>\n",
                Words(&said_workload(&again.holder)),
                again.targets,
                again.day,
                format(again.first, zone, "%H:%M:%S"),
                format(again.last, zone, "%H:%M:%S"),
            ));
        }
    }
    hours(page, &summary.hours, zone);
    page.put(format_args!("</section>\n"));
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn counts(page: &mut Page, title: &str, attempts: &str, counts: &[Count]) {
    if counts.is_empty() {
        return;
    }
    page.put(format_args!(
        "<div><h3>{title}</h3>\n<table><tr><th></th><th class=\"n\">incidents</th><th class=\"n\">{attempts}</th></tr>\n"
    ));
    for count in counts {
        page.put(format_args!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
            Apart(count.name.as_bytes()),
            count.incidents,
            count.attempts
        ));
    }
    page.put(format_args!("</table></div>\n"));
}

fn pairs(page: &mut Page, title: &str, pairs: impl Iterator<Item = (String, u64)>) {
    page.put(format_args!(
        "<div><h3>{title}</h3>\n<table><tr><th></th><th class=\"n\">incidents</th></tr>\n"
    ));
    for (name, count) in pairs {
        page.put(format_args!(
            "<tr><td>{}</td><td class=\"n\">{count}</td></tr>\n",
            Words(&name)
        ));
    }
    page.put(format_args!("</table></div>\n"));
}

/// Attempts by hour, where there is more than one hour.
fn hours(page: &mut Page, hours: &[Hour], zone: &TimeZone) {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 90.0;
    let (Some(first), Some(last)) = (hours.first(), hours.last()) else {
        return;
    };
    let number = |hour: &Hour| hour.hour.as_nanos().div_euclid(HOUR);
    let to = number(last);
    let from = number(first).max(to - HOURS + 1);
    if from >= to {
        return;
    }
    let most = hours.iter().map(|hour| hour.attempts).max().unwrap_or(1).max(1) as f64;
    let step = WIDTH / (to - from + 1) as f64;
    page.put(format_args!(
        "<h3>Refused attempts by hour</h3>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"Refused attempts by hour\">\n",
        HEIGHT + 22.0
    ));
    for hour in hours.iter().filter(|hour| number(hour) >= from) {
        let x = (number(hour) - from) as f64 * step;
        let height = (hour.attempts as f64 / most * (HEIGHT - 16.0)).max(1.5);
        page.put(format_args!(
            "<rect class=\"hour\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{}: {} attempts</title></rect>\n",
            x + step * 0.08,
            HEIGHT - height,
            step * 0.84,
            format(hour.hour, zone, "%Y-%m-%d %H:00"),
            hour.attempts
        ));
    }
    page.put(format_args!(
        "<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/>\
         <text class=\"small\" x=\"0\" y=\"{y}\">{}</text>\
         <text class=\"small\" x=\"{WIDTH}\" y=\"{y}\" text-anchor=\"end\">{}</text>\
         <text class=\"small\" x=\"0\" y=\"11\">most in an hour: {most}</text>\n</svg>\n",
        format(Timestamp::from_nanos(from * HOUR), zone, "%Y-%m-%d %H:00"),
        format(last.hour, zone, "%Y-%m-%d %H:00"),
        y = HEIGHT + 16.0,
    ));
}

/// Lines of logs, each with a link to the incident that explains it.
pub(super) fn log(page: &mut Page, lines: &[(String, Option<u64>)]) {
    if lines.is_empty() {
        return;
    }
    page.put(format_args!(
        "<section class=\"card\">\n<h3>Lines of the log</h3>\n<table>\n"
    ));
    for (line, incident) in lines {
        page.put(format_args!("<tr><td>{}</td><td class=\"n\">", Words(line)));
        match incident {
            Some(id) => page.put(format_args!("<a href=\"#i{id}\">#{id}</a>")),
            None => page.put(format_args!("not seen")),
        }
        page.put(format_args!("</td></tr>\n"));
    }
    page.put(format_args!("</table>\n</section>\n"));
}
