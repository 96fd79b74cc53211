//! Text output: the verdict first, then who, where, through what, since when, then the books, then what to do.
//!
//! A report has at most 18 lines of 110 columns, but for commands, which are never cut. Names and paths are escaped
//! ([`escape`]), always: the text ends up on a terminal sooner or later.

mod audit;
mod books;
mod capture;
mod detached;
mod entered;
mod holder;
mod html;
mod incident;
mod kinds;
#[cfg(test)]
mod limits;
mod names;
mod noise;
mod operation;
mod report;
#[cfg(test)]
mod samples;
mod slow;
mod times;
mod view;
mod who;

use jiff::tz::TimeZone;

pub use self::{
    audit::audit, capture::of_capture, capture::summary, html::Html, incident::incident, noise::noisy,
    who::who,
};
pub use crate::text::escape;

/// How text is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    /// Whether labels are set off with the escape sequences of a terminal.
    pub terminal: bool,
    /// For times of day.
    pub zone: TimeZone,
}

impl Style {
    /// For a terminal or for a file, with times of this host.
    #[must_use]
    pub fn new(terminal: bool) -> Self {
        Self {
            terminal,
            zone: crate::model::zone(),
        }
    }
}
