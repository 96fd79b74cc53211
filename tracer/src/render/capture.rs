//! Incidents of a capture, and its sums, as text.

use std::fmt::{self, Write as _};

use super::{
    Style,
    report::command_line,
    times::{between, duration, format},
};
use crate::{
    model::{Incident, Timestamp},
    report::{Count, Summary, said_workload},
    text::{
        escape,
        fit::{shorten, wrap},
        printable,
    },
};

/// Width of the longest bar of the hours.
const BAR: u64 = 50;
/// Hours that are told, the latest.
const HOURS: usize = 48;
const NAME: usize = 60;
const COLUMNS: usize = 110;

/// Writing into a string cannot fail.
fn put(text: &mut String, arguments: fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

/// `2026-11-23 14:39:34`.
fn date(time: Timestamp, style: &Style) -> String {
    format(time, &style.zone, "%Y-%m-%d %H:%M:%S")
}

/// An incident with its number and date, what recurs in it, and, if wanted, all advice in full.
#[must_use]
pub fn of_capture(incident: &Incident, again: &[String], commands: bool, style: &Style) -> String {
    let mut text = format!("#{}  {}\n", incident.id, date(incident.started, style));
    text.push_str(&super::incident(incident, style));
    for again in again {
        put(&mut text, format_args!("AGAIN  {}\n", printable(again)));
    }
    if commands {
        let fixes = incident.fixes.iter().filter(|fix| fix.is_for_people());
        for (index, fix) in fixes.enumerate() {
            let label = if index == 0 { "DO" } else { "" };
            put(
                &mut text,
                format_args!("{label:<6} {}\n", printable(&fix.words())),
            );
            if let Some(command) = &fix.command {
                put(&mut text, format_args!("{}\n", command_line(command)));
            }
        }
    }
    text.push('\n');
    text
}

/// The sums of a capture.
#[must_use]
pub fn summary(of: &Summary, style: &Style) -> String {
    let mut text = String::new();
    let mut line = |label: &str, words: &str| {
        for (index, part) in wrap(words, COLUMNS - 8).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            put(&mut text, format_args!("{label:<7} {part}\n"));
        }
    };
    let span = match (of.from, of.to) {
        (Some(from), Some(to)) => format!(
            "{} to {} ({}), {} records",
            date(from, style),
            date(to, style),
            duration(between(from, to)),
            of.records
        ),
        _ => format!("{} records", of.records),
    };
    line("IN ALL", &span);
    let chosen = if of.incidents_in_all > of.incidents {
        format!(" (of {} in the capture)", of.incidents_in_all)
    } else {
        String::new()
    };
    line(
        "",
        &format!(
            "{}{chosen}, {}; {} with books that explain everything; {} lost",
            plural(of.incidents, "incident"),
            plural(of.attempts, "refused attempt"),
            of.explained,
            of.lost_events
        ),
    );
    let pairs = |pairs: &std::collections::BTreeMap<String, u64>| {
        let mut pairs: Vec<(&String, &u64)> = pairs.iter().collect();
        pairs.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        pairs
            .iter()
            .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if of.incidents > 0 {
        line("ENDED", &pairs(&of.outcomes));
    }
    if !of.kinds.is_empty() {
        line("KINDS", &pairs(&of.kinds));
    }
    table(&mut text, "HOLDERS", "blocked", &of.holders);
    table(&mut text, "TARGETS", "refused", &of.targets);
    for (index, again) in of.recurrences.iter().enumerate() {
        put(
            &mut text,
            format_args!(
                "{:<7} {} blocked {} targets on {}, {} to {}\n",
                if index == 0 { "AGAIN" } else { "" },
                shorten(&said_workload(&again.holder), NAME),
                again.targets,
                again.day,
                format(again.first, &style.zone, "%H:%M:%S"),
                format(again.last, &style.zone, "%H:%M:%S"),
            ),
        );
    }
    hours(&mut text, of, style);
    for damage in &of.damage {
        put(&mut text, format_args!("DAMAGE  {}\n", escape(damage.as_bytes())));
    }
    text
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn table(text: &mut String, label: &str, attempts: &str, counts: &[Count]) {
    for (index, count) in counts.iter().enumerate() {
        let incidents = plural(count.incidents, "incident");
        put(
            text,
            format_args!(
                "{:<7} {:<width$}  {incidents:>14}, {} {attempts}\n",
                if index == 0 { label } else { "" },
                shorten(&said_workload(&count.name), NAME),
                count.attempts,
                width = NAME.min(counts.iter().map(|count| count.name.len()).max().unwrap_or(0)),
            ),
        );
    }
}

fn hours(text: &mut String, of: &Summary, style: &Style) {
    if of.hours.len() < 2 {
        return;
    }
    let most = of
        .hours
        .iter()
        .map(|hour| hour.attempts)
        .max()
        .unwrap_or(1)
        .max(1);
    let left_out = of.hours.len().saturating_sub(HOURS);
    for (index, hour) in of.hours.iter().skip(left_out).enumerate() {
        put(
            text,
            format_args!(
                "{:<7} {} {:>9} {}\n",
                if index == 0 { "HOURS" } else { "" },
                format(hour.hour, &style.zone, "%Y-%m-%d %H:%M"),
                hour.attempts,
                "#".repeat((hour.attempts * BAR).div_ceil(most) as usize),
            ),
        );
    }
}
