//! Who did more than ebusy records of one user or container, and what of that is lost.

use super::names;
use crate::{
    model::{Incident, Process},
    stream::Noise,
    text::{Line, name_in_text},
};

/// Sources that a line names.
const NAMED: usize = 3;

/// Where that may be missing in an incident.
pub(super) fn noise(incident: &Incident) -> Option<String> {
    let most = incident.noise.first()?;
    let line = Line::new("NOISE").words(format!("{} of the lost are of ", most.lost));
    let line = line.brief(by(&most.by));
    let line = match incident.noise.len() {
        1 => line,
        more => line.words(format!(" and of {} more", more - 1)),
    };
    Some(line.words(": more than ebusy records of one").finish())
}

/// Of a whole run, at the end of a sentence.
#[must_use]
pub fn noisy(all: &[Noise]) -> String {
    let mut most: Vec<&Noise> = all.iter().collect();
    most.sort_by_key(|noise| std::cmp::Reverse(noise.losses.total()));
    let named = most.iter().take(NAMED).map(|noise| {
        let what: Vec<&str> = (noise.losses.0.keys())
            .map(|what| what.split_once(':').map_or(what.as_str(), |(probe, _)| probe))
            .collect();
        format!(
            "; {} of {} not recorded, more than ebusy records of one ({})",
            noise.losses.total(),
            by(&noise.by),
            what.join(", ")
        )
    });
    let named: String = named.collect();
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; of {more} more as well"),
    }
}

/// `user 65534 (rename_storm, pid 12)`, `shop/web-7c9d "app" (curl, pid 12)`.
fn by(by: &Process) -> String {
    let home = match (&by.container, &by.unit, by.uid) {
        (Some(of), ..) => names::container_short(of),
        (None, Some(unit), Some(0)) => name_in_text(unit.as_bytes()),
        (None, _, Some(uid)) => format!("user {uid}"),
        (None, _, None) => return "somebody who has gone".to_owned(),
    };
    format!("{home} ({}, pid {})", name_in_text(by.comm.as_bytes()), by.pid)
}
