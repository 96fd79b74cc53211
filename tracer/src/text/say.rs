//! Standard error: what is said beside the results.

use std::fmt;

use super::printable;
use crate::stderr;

/// Says a line. Whatever is in it, it stays a line of visible characters; whether anybody listens does not matter.
pub fn line(words: fmt::Arguments<'_>) {
    stderr::write(format!("{}\n", printable(&words.to_string())));
}

/// Draws over the last line of a terminal: ebusy's own words and escape sequences, nothing of others.
pub fn draw(picture: fmt::Arguments<'_>) {
    stderr::write(picture.to_string());
}

/// Says a line, with the words of `format!`.
macro_rules! say {
    ($($words:tt)*) => { $crate::text::say::line(format_args!($($words)*)) };
}
pub(crate) use say;
