//! Attempts and the lives of holders as a picture (SVG inside the page).

use jiff::tz::TimeZone;

use super::text::{Name, Page, Words};
use crate::{
    incident::Span,
    model::{Holder, Incident, Timestamp},
    render::times::{between, duration, moment},
    report::Finding,
    text::{fit::shorten, said},
};

const WIDTH: f64 = 1000.0;
/// Where the labels end.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 12.0;
const ROW: f64 = 26.0;
/// Height of the axis.
const AXIS: f64 = 34.0;
const HOLDERS: usize = 12;
const BYSTANDERS: usize = 4;

/// What is shown: the attempts, some time around them, and the end if it is near.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: i64,
    to: i64,
}

impl Window {
    fn of(finding: &Finding) -> Self {
        let Finding { incident, timeline } = finding;
        let first = incident.started.as_nanos();
        let attempts = &timeline.attempts;
        let last = attempts
            .last()
            .map_or(first, |attempt| attempt.returned.as_nanos());
        let length = last.saturating_sub(first).max(10_000_000);
        let room = length / 8;
        let ended = incident.ended.map_or(last, Timestamp::as_nanos);
        let near = ended.saturating_sub(last) <= length.saturating_mul(2);
        let opened = timeline.holders.iter().filter(|span| span.begun);
        // Openings shortly before are worth seeing.
        let early = opened
            .map(|span| span.since.as_nanos())
            .filter(|since| first.saturating_sub(*since) <= length / 2)
            .min()
            .unwrap_or(first)
            .min(first);
        Self {
            from: early.saturating_sub(room),
            to: last.max(if near { ended } else { last }).saturating_add(room),
        }
    }

    fn x(self, time: Timestamp) -> f64 {
        let length = self.to.saturating_sub(self.from).max(1) as f64;
        let part = time.as_nanos().saturating_sub(self.from) as f64 / length;
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn has(self, time: Timestamp) -> bool {
        (self.from..=self.to).contains(&time.as_nanos())
    }
}

/// The picture.
pub(super) fn timeline(page: &mut Page, finding: &Finding, zone: &TimeZone) {
    let Finding { incident, timeline } = finding;
    let window = Window::of(finding);
    let holders = incident.holders.len().min(HOLDERS);
    let bystanders = incident.bystanders.len().min(BYSTANDERS);
    let rows = 1 + holders + bystanders;
    let bottom = rows as f64 * ROW + 6.0;
    let height = bottom + AXIS;
    page.put(format_args!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Timeline of {} refused attempts and {} holders\">\n",
        incident.attempts(),
        incident.holders.len()
    ));
    axis(page, window, bottom, zone);
    attempts(page, finding, window);
    let bars = incident
        .holders
        .iter()
        .zip(&timeline.holders)
        .take(HOLDERS)
        .map(|(holder, span)| (holder, span, "bar"));
    let beside = incident
        .bystanders
        .iter()
        .zip(&timeline.bystanders)
        .take(BYSTANDERS)
        .map(|(holder, span)| (holder, span, "beside"));
    for (index, (holder, span, class)) in bars.chain(beside).enumerate() {
        let y = (index + 1) as f64 * ROW;
        bar(page, (holder, *span), class, window, y, zone);
    }
    end(page, incident, window, bottom);
    page.put(format_args!("</svg>\n"));
    let more = (incident.holders.len() - holders) + (incident.bystanders.len() - bystanders);
    if more > 0 {
        page.put(format_args!("<p class=\"dim\">{more} more are not drawn.</p>\n"));
    }
}

fn axis(page: &mut Page, window: Window, bottom: f64, zone: &TimeZone) {
    const TICKS: i64 = 5;
    let length = window.to.saturating_sub(window.from);
    let near = length < 10_000_000_000;
    for tick in 0..=TICKS {
        let time = Timestamp::from_nanos(window.from.saturating_add(length / TICKS * tick));
        let x = window.x(time);
        let clock = moment(time, time, zone);
        let millis = time.as_nanos().rem_euclid(1_000_000_000) / 1_000_000;
        let label = if near {
            format!("{clock}.{millis:03}")
        } else {
            clock
        };
        let anchor = match tick {
            0 => "start",
            TICKS => "end",
            _ => "middle",
        };
        page.put(format_args!(
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>\n",
            bottom + 16.0
        ));
    }
}

fn label(page: &mut Page, text: &str, y: f64) {
    page.put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
        LEFT - 10.0,
        y + 17.0,
        Words(&shorten(text, 34))
    ));
}

fn attempts(page: &mut Page, finding: &Finding, window: Window) {
    label(page, "refused attempts", 0.0);
    let mut drawn = f64::MIN;
    page.put(format_args!("<path class=\"attempt\" d=\""));
    for attempt in &finding.timeline.attempts {
        let x = window.x(attempt.returned);
        // As many as can be told apart.
        if x - drawn >= 0.8 {
            drawn = x;
            page.put(format_args!("M{x:.1} 4V22"));
        }
    }
    page.put(format_args!("\"/>\n"));
}

fn bar(
    page: &mut Page,
    (holder, span): (&Holder, Span),
    class: &str,
    window: Window,
    y: f64,
    zone: &TimeZone,
) {
    let name = match &holder.process {
        Some(process) => format!("{} {}", said(process.comm.as_bytes()), process.pid),
        None => holder.kind.name().to_owned(),
    };
    let name = match holder.fd {
        Some(fd) => format!("{name} fd {fd}"),
        None => name,
    };
    label(page, &name, y);
    let (from, to) = (window.x(span.since), window.x(span.until));
    let (top, low) = (y + 5.0, y + 21.0);
    page.put(format_args!(
        "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"><title>{}: {} \
         {} to {} {}</title></rect>\n",
        (to - from).max(2.0),
        Name(holder.path.as_bytes()),
        if span.begun { "from" } else { "found from" },
        moment(span.since, span.since, zone),
        moment(span.until, span.until, zone),
        if span.ended { "" } else { "(last found)" },
    ));
    for (seen, time, x) in [(span.begun, span.since, from), (span.ended, span.until, to)] {
        if seen && window.has(time) {
            page.put(format_args!(
                "<line class=\"edge\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\n",
                top - 2.0,
                low + 2.0
            ));
        }
    }
    if span.begun && !window.has(span.since) {
        let before = duration(between(span.since, Timestamp::from_nanos(window.from)));
        page.put(format_args!(
            "<text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">&#9664; open {before} before</text>\n",
            LEFT + 6.0,
            y + 17.0
        ));
    }
}

fn end(page: &mut Page, incident: &Incident, window: Window, bottom: f64) {
    let (Some(ended), Some(outcome)) = (incident.ended, incident.outcome) else {
        return;
    };
    let words = outcome.name().replace('_', " ");
    let y = bottom + 30.0;
    if !window.has(ended) {
        let x = WIDTH - RIGHT;
        let later = duration(between(Timestamp::from_nanos(window.to), ended));
        page.put(format_args!(
            "<text class=\"small\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{words} {later} later &#9654;</text>\n"
        ));
        return;
    }
    let x = window.x(ended);
    let anchor = if x > WIDTH - 90.0 { "end" } else { "middle" };
    page.put(format_args!(
        "<line class=\"end\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{:.1}\"/>\
         <text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n",
        bottom + 4.0
    ));
}
