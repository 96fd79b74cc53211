//! Putting lines together: what has to be said first, and as much of the rest as there is room for.

use super::{
    Style,
    holder::{block, brief},
    view::View,
};
use crate::{
    advice::check_command,
    model::{Fix, Holder, Target},
    text::{
        Command, Line,
        fit::{COLUMNS, wrap},
        printable,
    },
};

/// Lines of a report.
pub(super) const LINES: usize = 18;
/// Holders that are told one by one.
const HOLDERS: usize = 5;
/// Columns of a label.
const LABEL: usize = 7;
/// Lines of advice, where there is room: the rest is in the JSON.
const ADVICE_LINES: usize = 7;

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
    pub(super) fixes: &'a [Fix],
    /// It is over: what helps is for the next time.
    pub(super) over: bool,
    /// What shows that it is free, with the words before it.
    pub(super) check: Option<(&'static str, Command)>,
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
        let fixed = 1 + after.len() + 2 * usize::from(self.check.is_some());
        let fixes = self.fixes.iter().filter(|fix| fix.is_for_people());
        let advices: Vec<Vec<String>> = fixes
            .enumerate()
            .map(|(index, fix)| advice(fix, index == 0 && self.over))
            .collect();
        let least_advice = chosen(&advices, ADVICE_LINES).len();

        let mut lines = vec![self.verdict];
        lines.extend(self.no_holder);
        lines.extend(holders(
            self.holders,
            self.view,
            LINES.saturating_sub(fixed + least_advice),
        ));
        let left = LINES.saturating_sub(lines.len() - 1 + fixed);
        lines.extend(after);
        lines.extend(chosen(&advices, left.min(ADVICE_LINES)));
        if let Some((words, command)) = self.check {
            lines.push(Line::new("CHECK").words(words).words(":").finish());
            lines.push(command_line(&command));
        }

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
        line = line.words(comma).brief(brief(holder));
    }
    match holders.len().saturating_sub(3) {
        0 => line,
        more => line.words(format!(" and {more} more")),
    }
    .finish()
}

/// The first advice, and others as far as they fit whole.
fn chosen(advices: &[Vec<String>], room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut left_out = 0;
    for advice in advices {
        if lines.is_empty() || lines.len() + advice.len() <= room {
            lines.extend(advice.iter().cloned());
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 && lines.len() < room {
        lines.push(format!("{:LABEL$}+{left_out} more to try: see --format json", ""));
    }
    if let Some(first) = lines.first_mut() {
        first.replace_range(..LABEL, &format!("{:<LABEL$}", "FIX"));
    }
    lines
}

/// An advice: its words, and its command whole on a line of its own, however long that is.
pub(super) fn advice(fix: &Fix, for_the_next_time: bool) -> Vec<String> {
    let words = fix.words();
    let words = if for_the_next_time {
        format!("for the next time: {words}")
    } else {
        words
    };
    // All of it: what is cut off could be the end of a quoted name.
    let mut lines: Vec<String> = wrap(&printable(&words), COLUMNS - LABEL)
        .into_iter()
        .map(|line| format!("{:LABEL$}{line}", ""))
        .collect();
    lines.extend(fix.command.as_ref().map(command_line));
    lines
}

/// To be copied as a line: nothing else stands there, and it is never cut.
pub(super) fn command_line(command: &Command) -> String {
    format!("{:LABEL$}  {command}", "")
}

/// What to run to see whether it is free.
pub(super) fn check(target: &Target) -> (&'static str, Command) {
    match check_command(target) {
        Some(command) => ("exit status 0 means free", command),
        None => ("lists every mount that is stuck", Command::new(&["ebusy", "who"])),
    }
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
