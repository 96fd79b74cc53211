//! The table of kinds of reference by kernel and probe tier, with the findings of peers for the same holders: made from
//! the results of the tests, never written by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::results::{End, Results};

/// Its file.
pub(crate) const PATH: &str = "docs/kinds.md";

/// The tests behind it.
pub(crate) const SUITES: [&str; 4] = ["kinds", "peers", "innocents", "together"];

const HEAD: &str = "# Kinds of reference

Made by `cargo xtask test --table` from the tests of these names, never by hand. Each row of the table is a holder program
of `tests`, held on the file systems that it works on (tmpfs, overlayfs; some on overlayfs with layers on two file
systems, on ext2, on FUSE), through the target, a propagated copy, the copy of a peer (on this host only), a private copy,
and beside another holder. A column is a kernel and a probe tier. `exact`: kind, process, thread, descriptor, path,
references and books were right in every test of the row, and nobody else was named. `-`: none of them could run, for the
reason of that number. The tier `proc` counts nothing and has no column: it names descriptors and child mounts. What is not
named at any tier is in [unnamed.md](unnamed.md).

The last columns are others, asked on this host for the same holders: `named` if they named the process (or the first of
several), `some` if on some file systems only, `accuses` if they named the user of a private copy, which does not block.

";

/// The result of one row in one column.
#[derive(Debug, Default)]
struct Cell {
    passed: usize,
    failed: usize,
    reasons: BTreeSet<String>,
}

/// Rows and columns of the tests `kinds`.
#[derive(Debug, Default)]
struct Kinds<'t> {
    rows: BTreeSet<&'t str>,
    columns: Vec<&'t str>,
    cells: BTreeMap<(&'t str, &'t str), Cell>,
    /// The ways to the mount that were tried in a column.
    through: BTreeMap<&'t str, BTreeSet<&'t str>>,
}

impl<'t> Kinds<'t> {
    fn of(results: &'t Results) -> Self {
        let mut kinds = Self::default();
        for test in &results.tests {
            let Some((column, "kinds")) = test.suite.split_once(": ") else {
                continue;
            };
            let Some((row, rest)) = test.name.split_once("::") else {
                continue;
            };
            if !kinds.columns.contains(&column) {
                kinds.columns.push(column);
            }
            kinds.rows.insert(row);
            let through = rest.rsplit("::").next().unwrap_or(rest);
            kinds.through.entry(column).or_default().insert(through);
            let cell = kinds.cells.entry((row, column)).or_default();
            match &test.end {
                End::Passed | End::Flaky(_) => cell.passed += 1,
                End::Failed(_) => cell.failed += 1,
                End::Skipped(reason) => {
                    cell.reasons.insert(reason.clone());
                }
            }
        }
        kinds
    }

    /// Rows that were exact, of those that could run.
    fn sum(&self, column: &str) -> String {
        let of_column = self.cells.iter().filter(|((_, of), _)| *of == column);
        let ran: Vec<&Cell> = of_column
            .map(|(_, cell)| cell)
            .filter(|cell| cell.passed + cell.failed > 0)
            .collect();
        let exact = ran.iter().filter(|cell| cell.failed == 0).count();
        format!("{exact} of {}", ran.len())
    }
}

/// Numbered remarks, each once.
#[derive(Debug, Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: &str) -> usize {
        let known = self.0.iter().position(|known| known == note);
        1 + known.unwrap_or_else(|| {
            self.0.push(note.to_owned());
            self.0.len() - 1
        })
    }
}

/// The table, from the results; `None` if none of its tests ran.
pub(crate) fn render(results: &Results, host: &str) -> Option<String> {
    let kinds = Kinds::of(results);
    if kinds.rows.is_empty() {
        return None;
    }
    let peers = peers(results);
    let mut notes = Notes::default();
    let mut text = HEAD.to_owned();
    let most = kinds.through.values().map(BTreeSet::len).max().unwrap_or(0);
    let own = kinds.columns.iter().map(|column| {
        let name = if *column == "host" { host } else { column };
        // A snapshot finds the same at every tier, so some columns leave rows to others.
        let tried = &kinds.through[column];
        if tried.len() < most {
            let ways: Vec<String> = tried.iter().map(|way| way.replace('_', " ")).collect();
            let note = format!("only through: {}", ways.join(", "));
            format!("{name} ({})", notes.number(&note))
        } else {
            name.to_owned()
        }
    });
    let heads: Vec<String> = own
        .collect::<Vec<_>>()
        .into_iter()
        .chain(peers.keys().map(|peer| (*peer).to_owned()))
        .collect();
    let _ = writeln!(text, "| | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(heads.len()));
    for row in &kinds.rows {
        let own = kinds.columns.iter().map(|column| {
            let cell = kinds.cells.get(&(*row, *column));
            cell.map_or_else(|| "not run".to_owned(), |cell| words(cell, &mut notes))
        });
        let own: Vec<String> = own.collect();
        let others = peers.values().map(|peer| peer.row(row));
        let line: Vec<String> = own.into_iter().chain(others).collect();
        let _ = writeln!(text, "| `{row}` | {} |", line.join(" | "));
    }
    let sums = kinds.columns.iter().map(|column| kinds.sum(column));
    let sums: Vec<String> = sums.chain(peers.values().map(Peer::sum)).collect();
    let _ = writeln!(text, "| **in all** | {} |", sums.join(" | "));
    if !notes.0.is_empty() {
        text.push('\n');
        for (index, note) in notes.0.iter().enumerate() {
            let _ = writeln!(text, "{}. {note}", index + 1);
        }
    }
    text.push_str(&suite(results, host, "innocents", INNOCENTS));
    text.push_str(&suite(results, host, "together", TOGETHER));
    Some(text)
}

const INNOCENTS: &str = "
## Innocents

What looks like a use of the mount and does not make its umount fail stands beside one real holder: private copies in
use, detached clones, inotify and fanotify marks, landlock rules, layers of other overlays, pages in a pipe, zombies, binds.
`innocent`: nobody but the holder was named, and the umount succeeded as soon as it had let go.

| | innocent |
|---|---|
";

const TOGETHER: &str = "
## Together

Kinds beside each other on one mount: pairs of which one goes between two attempts, triples on the target, on a copy that
blocks and on one that does not, all at once, one after the other, and several in one process. `balanced`: each was named,
what was counted was explained, and what remained was told.

| | balanced |
|---|---|
";

/// Number of passed tests of a suite, by column, and the names of failed ones.
fn suite(results: &Results, host: &str, suite: &str, head: &str) -> String {
    let mut columns: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for test in &results.tests {
        let name = test.name.as_str();
        let Some((column, of)) = test.suite.split_once(": ") else {
            continue;
        };
        // The last test of a suite is about all of them.
        if of != suite || !name.contains("::") {
            continue;
        }
        let (passed, failed) = columns.entry(column).or_default();
        match &test.end {
            End::Passed | End::Flaky(_) => *passed += 1,
            End::Failed(_) => failed.push(name),
            End::Skipped(_) => {}
        }
    }
    if columns.is_empty() {
        return String::new();
    }
    let mut text = head.to_owned();
    for (column, (passed, failed)) in columns {
        let name = if column == "host" { host } else { column };
        let _ = write!(text, "| {name} | {passed} of {}", passed + failed.len());
        if !failed.is_empty() {
            let _ = write!(text, ", **not: {}**", failed.join(", "));
        }
        text.push_str(" |\n");
    }
    text
}

fn words(cell: &Cell, notes: &mut Notes) -> String {
    let mut text = match (cell.passed, cell.failed) {
        (0, 0) => "-".to_owned(),
        (_, 0) => "exact".to_owned(),
        (_, failed) => format!("**{failed} wrong**"),
    };
    for reason in &cell.reasons {
        let _ = write!(text, " ({})", notes.number(reason));
    }
    text
}

/// A peer's result for each row.
#[derive(Debug, Default)]
struct Peer<'t>(BTreeMap<&'t str, BTreeSet<&'t str>>);

impl Peer<'_> {
    fn row(&self, row: &str) -> String {
        let Some(results) = self.0.get(row) else {
            return "not run".to_owned();
        };
        let found = match (results.contains("found"), results.contains("missed")) {
            (true, true) => "some",
            (true, false) => "named",
            (false, true) => "no",
            (false, false) if results.contains("hangs") => return "hangs".to_owned(),
            (false, false) => return "not installed".to_owned(),
        };
        let accused = if results.contains("accused") {
            ", accuses"
        } else {
            ""
        };
        format!("{found}{accused}")
    }

    fn sum(&self) -> String {
        let count =
            |what: &dyn Fn(&BTreeSet<&str>) -> bool| self.0.values().filter(|results| what(results)).count();
        let asked = count(&|results| results.contains("found") || results.contains("missed"));
        let named = count(&|results| results.contains("found") && !results.contains("missed"));
        let accused = count(&|results| results.contains("accused"));
        format!("{named} of {asked}, accuses in {accused}")
    }
}

/// Peers, and for each row if they named the holder, and a user of a private copy.
fn peers(results: &Results) -> BTreeMap<&str, Peer<'_>> {
    let mut peers: BTreeMap<&str, Peer<'_>> = BTreeMap::new();
    for measured in &results.measured {
        let what = measured.what.as_str();
        let row = what.split_once("::").map_or(what, |(row, _)| row);
        let rows = &mut peers.entry(&measured.by).or_default().0;
        rows.entry(row).or_default().insert(&measured.result);
    }
    peers
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::results::{End, Measured, Results, Test};

    fn test(suite: &str, name: &str, end: End) -> Test {
        Test {
            name: name.to_owned(),
            end,
            ..Test::failed(suite, "")
        }
    }

    #[test]
    fn rows_columns_and_reasons() {
        let skipped = || End::Skipped("no loop devices".to_owned());
        let measured = |what: &str, by: &str, result: &str| Measured {
            what: what.to_owned(),
            by: by.to_owned(),
            result: result.to_owned(),
        };
        let results = Results {
            tests: vec![
                test("host: kinds", "loop::tmpfs::target", skipped()),
                test("host: kinds", "fd::tmpfs::target", End::Passed),
                test("host: kinds", "fd::tmpfs::propagated_copy", End::Passed),
                test("host: other", "x::y", End::Passed),
                test(
                    "6.1 fentry: kinds",
                    "fd::tmpfs::target",
                    End::Failed("no".to_owned()),
                ),
                test("6.1 fentry: kinds", "loop::tmpfs::target", End::Passed),
                test("6.1 fentry: kinds", "loop::overlay::target", skipped()),
                test("5.10 kprobe: kinds", "fd::tmpfs::target", End::Passed),
                test("host: kinds", "nothing_else", End::Passed),
            ],
            measured: vec![
                measured("fd::tmpfs", "fuser -m", "found"),
                measured("fd::tmpfs", "fuser -m", "accused"),
                measured("loop::tmpfs", "fuser -m", "missed"),
                measured("fd::tmpfs", "lsfd", "not installed"),
            ],
        };
        let text = render(&results, "6.18 tracepoint").unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(['|', '1', '2']))
            .collect();
        assert_eq!(
            lines,
            [
                "| | 6.18 tracepoint | 6.1 fentry (1) | 5.10 kprobe (1) | fuser -m | lsfd |",
                "|---|---|---|---|---|---|",
                "| `fd` | exact | **1 wrong** | exact | named, accuses | not installed |",
                "| `loop` | - (2) | exact (2) | not run | no | not run |",
                "| **in all** | 1 of 1 | 1 of 2 | 1 of 1 | 1 of 2, accuses in 1 | 0 of 0, accuses in 0 |",
                "1. only through: target",
                "2. no loop devices",
            ]
        );
        assert_eq!(render(&Results::default(), ""), None);
    }

    #[test]
    fn innocents_and_what_is_held_together() {
        let results = Results {
            tests: vec![
                test("host: kinds", "fd::tmpfs::target", End::Passed),
                test("host: innocents", "inotify::tmpfs", End::Passed),
                test("host: innocents", "zombie::tmpfs", End::Failed("no".to_owned())),
                test(
                    "host: innocents",
                    "landlock::tmpfs",
                    End::Skipped("none".to_owned()),
                ),
                test("host: innocents", "nothing_else", End::Passed),
                test("6.1 fentry: together", "all::tmpfs", End::Passed),
            ],
            ..Results::default()
        };
        let text = render(&results, "6.18 tracepoint").unwrap_or_default();
        assert!(
            text.contains("\n| 6.18 tracepoint | 1 of 2, **not: zombie::tmpfs** |\n"),
            "{text}"
        );
        assert!(text.ends_with("\n| 6.1 fentry | 1 of 1 |\n"), "{text}");
    }
}
