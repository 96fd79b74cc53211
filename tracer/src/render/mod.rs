//! Text output: the verdict first, then who, where, through what, since when, then the books, then what to do.
//!
//! A report has at most 18 lines of 110 columns, but for commands, which are never cut. Names and paths are escaped
//! ([`escape`]), always: the text ends up on a terminal sooner or later.

mod advice;
mod audit;
mod audit_advice;
mod books;
mod capture;
mod detached;
mod entered;
mod fit;
mod holder;
mod html;
mod incident;
mod kinds;
#[cfg(test)]
mod limits;
mod line;
mod names;
mod operation;
mod operation_advice;
mod report;
mod retry;
#[cfg(test)]
pub(crate) mod samples;
mod slow;
mod times;
mod who;

use jiff::tz::TimeZone;

pub(crate) use self::retry::retries_by_rule;
pub use self::{
    advice::{fixes, fixes_of_asked, fixes_of_detached, fixes_of_followed, fixes_of_refused},
    audit::audit,
    audit_advice::advise_audit,
    capture::of_capture,
    capture::summary,
    html::Html,
    incident::incident,
    operation_advice::fixes_of_operation,
    retry::after,
    slow::fixes_of_slow,
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
            zone: TimeZone::system(),
        }
    }
}
