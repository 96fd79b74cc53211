//! The rooms of the tracer, from the top of the house to the ground: each uses only those below it. Files of one room may
//! use each other, but not in a circle.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;

use crate::say;

mod circles;
mod crate_files;
mod paths;

/// Each may use those that come after it.
const ROOMS: [&str; 27] = [
    "fuzz", "schema", "cli", "render", "export", "report", "by_proc", "live", "capture", "incident", "audit",
    "stream", "probe", "logs", "advice", "kernel", "identity", "btf", "model", "watchdog", "owned", "text",
    "stderr", "outlet", "confine", "lib", "main",
];

/// Known arrows up and circles: these numbers only go down.
const LEFT: (usize, usize) = (6, 1);

/// One file uses something of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
    /// The path as it is written.
    what: String,
    /// Only a test does: tests may use their whole room.
    test: bool,
}

/// Lists the arrows that run up and the circles; returns true if there are no more than the known ones.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let folder = root.join("tracer/src");
    let files = crate_files::read(&folder)?;
    let arrows = files.arrows();
    let up: Vec<&Arrow> = arrows.iter().filter(|arrow| runs_up(arrow)).collect();
    let pairs: BTreeSet<(&str, &str)> = arrows
        .iter()
        .filter(|arrow| !arrow.test)
        .map(|arrow| (arrow.from.as_str(), arrow.to.as_str()))
        .collect();
    let circles = circles::circles(&pairs);
    let found = (up.len(), circles.len());
    say(&format!(
        "{} files, {} arrows between them, {} of which run up, {} circles",
        files.len(),
        pairs.len(),
        found.0,
        found.1
    ));
    if found == LEFT {
        return Ok(true);
    }
    for Arrow { from, to, what, .. } in &up {
        say(&format!("up: {from} uses {what} of {to}"));
    }
    for circle in &circles {
        say(&format!("in a circle: {}", circle.join(", ")));
        let inside =
            |arrow: &&Arrow| !arrow.test && circle.contains(&&*arrow.from) && circle.contains(&&*arrow.to);
        for Arrow { from, to, what, .. } in arrows.iter().filter(inside) {
            say(&format!("    {from} uses {what} of {to}"));
        }
    }
    say(&format!(
        "{LEFT:?} arrows up and circles are known (xtask/src/lint/rooms)"
    ));
    Ok(false)
}

/// The room of a file: its folder, or its own name at the root.
fn room(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn floor(file: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room(file))
}

/// A file in no room may use nothing: add it to a room.
fn runs_up(arrow: &Arrow) -> bool {
    match (floor(&arrow.from), floor(&arrow.to)) {
        (Some(from), Some(to)) => from > to,
        _ => true,
    }
}
