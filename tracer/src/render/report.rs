//! Putting lines together: what has to be said first, and as much of the rest as there is room for.

use super::{
    Style,
    fit::{COLUMNS, columns, wrap},
    holder::{View, block, brief},
    line::Line,
    names,
    quote::shell,
    sanitize::printable,
};
use crate::{
    identity::mount_claim,
    model::{Holder, Target},
};

/// Lines of a report.
pub(super) const LINES: usize = 14;
/// Holders that are told one by one.
const HOLDERS: usize = 5;
/// Columns of a label.
const LABEL: usize = 7;
/// Lines of advice, where there is room: the rest is in the JSON.
const ADVICE_LINES: usize = 4;

/// The parts of a report.
pub(super) struct Report<'a> {
    pub(super) verdict: String,
    pub(super) holders: &'a [Holder],
    /// Said in place of holders.
    pub(super) no_holder: Option<String>,
    pub(super) candidates: &'a [Holder],
    pub(super) bystanders: &'a [Holder],
    pub(super) view: View<'a>,
    /// Books and state.
    pub(super) account: Vec<String>,
    pub(super) advice: &'a [String],
    /// It is over: what helps is for the next time.
    pub(super) over: bool,
    pub(super) check: Option<String>,
}

impl Report<'_> {
    /// The report, with an end to its last line.
    pub(super) fn write(self, style: &Style) -> String {
        let mut after = Vec::new();
        if !self.candidates.is_empty() {
            after.push(list(
                "MAYBE",
                "suspected, not seen by reference: ",
                self.candidates,
            ));
        }
        if !self.bystanders.is_empty() {
            after.push(list(
                "BESIDE",
                "not blocking, but keeping the file system busy: ",
                self.bystanders,
            ));
        }
        after.extend(self.account);
        let fixed = 1 + after.len() + usize::from(self.check.is_some());
        let mut advices: Vec<String> = self
            .advice
            .iter()
            .filter(|text| !text.trim().is_empty())
            .cloned()
            .collect();
        if let Some(first) = advices.first_mut().filter(|_| self.over) {
            first.insert_str(0, "for the next time: ");
        }
        let advices: Vec<&String> = advices.iter().collect();
        // The first advice is never cut off.
        let least_advice = advices.first().map_or(0, |first| wrapped(first).len().min(2));

        let mut lines = vec![self.verdict];
        lines.extend(self.no_holder);
        lines.extend(holders(
            self.holders,
            self.view,
            LINES.saturating_sub(fixed + least_advice),
        ));
        let left = LINES.saturating_sub(lines.len() - 1 + fixed);
        lines.extend(after);
        lines.extend(advice(&advices, left.min(ADVICE_LINES)));
        lines.extend(self.check);

        let mut text = String::new();
        for line in lines {
            text.push_str(&if style.terminal { emphasized(&line) } else { line });
            text.push('\n');
        }
        text
    }
}

fn holders(holders: &[Holder], view: View<'_>, room: usize) -> Vec<String> {
    let shown = holders.len().min(HOLDERS);
    let more = holders.len() - shown;
    let each = room
        .saturating_sub(usize::from(more > 0))
        .checked_div(shown)
        .unwrap_or(0);
    let mut lines: Vec<String> = holders
        .iter()
        .take(shown)
        .flat_map(|holder| block(holder, view, each.clamp(1, 5)))
        .collect();
    if more > 0 {
        let refs: u64 = holders
            .iter()
            .skip(shown)
            .map(|holder| holder.refs)
            .fold(0, u64::saturating_add);
        lines.push(
            Line::new("")
                .words(format!("+{more} more, with {refs} references: see --format json"))
                .finish(),
        );
    }
    lines
}

/// `LABEL  introduction: name pid, name pid and 2 more`.
fn list(label: &str, introduction: &str, holders: &[Holder]) -> String {
    let mut line = Line::new(label).words(introduction);
    for (index, holder) in holders.iter().take(3).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        line = line.words(comma).name_escaped(brief(holder));
    }
    match holders.len().saturating_sub(3) {
        0 => line,
        more => line.words(format!(" and {more} more")),
    }
    .finish()
}

/// The first advice, and others as far as they fit whole.
fn advice(advice: &[&String], room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut left_out = 0;
    for text in advice.iter().copied() {
        let wrapped = wrapped(text);
        // A command that was cut is of no use.
        let whole = text
            .split(' ')
            .all(|word| columns(&printable(word)) <= COLUMNS - LABEL);
        if lines.is_empty() || whole && lines.len() + wrapped.len() <= room {
            lines.extend(wrapped);
        } else {
            left_out += 1;
        }
    }
    lines.truncate(room.max(usize::from(!advice.is_empty())));
    if left_out > 0 && lines.len() < room {
        lines.push(format!("+{left_out} more to try: see --format json"));
    }
    let label = |index: usize| if index == 0 { "FIX" } else { "" };
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| format!("{:<6} {line}", label(index)))
        .collect()
}

fn wrapped(advice: &str) -> Vec<String> {
    wrap(&printable(advice), COLUMNS - LABEL)
}

/// What to run to see whether it is free, as a line.
pub(super) fn check(target: &Target) -> String {
    let words = match check_command(target) {
        Some(command) => format!("{command} (exit 0 means free)"),
        None => "ebusy who (lists every mount that is stuck)".to_owned(),
    };
    Line::new("CHECK").words(words).finish()
}

/// The command whose exit status 0 means free.
pub(super) fn check_command(target: &Target) -> Option<String> {
    let claim = mount_claim(target.path.as_bytes());
    let rootfs = claim.is_some_and(|claim| claim.what == "rootfs");
    let container = target.container.as_ref();
    let what = match container.filter(|_| rootfs) {
        Some(of) if names::short_id(&of.id) != of.id => Some(names::short_id(&of.id).to_owned()),
        Some(of) => of
            .namespace
            .as_ref()
            .map(|namespace| format!("{namespace}/{}", of.id)),
        None => None,
    };
    let path = || String::from_utf8_lossy(target.path.as_bytes()).into_owned();
    let word = shell(what.unwrap_or_else(path).as_bytes());
    // A command that was cut is of no use.
    let fits = word.len() <= 70 && std::str::from_utf8(target.path.as_bytes()).is_ok();
    fits.then(|| format!("ebusy who {word}"))
}

/// The label in bold, a verdict of being busy in red: escape sequences of our own, around text that has none.
fn emphasized(line: &str) -> String {
    let end = line.find(' ').map_or(LABEL, |end| end.max(LABEL));
    let (label, rest) = line.split_at_checked(end).unwrap_or((line, ""));
    let color = if matches!(label.trim_end(), "EBUSY" | "BUSY") {
        "\x1b[1;31m"
    } else {
        "\x1b[1m"
    };
    if label.starts_with(' ') {
        line.to_owned()
    } else {
        format!("{color}{label}\x1b[0m{rest}")
    }
}
