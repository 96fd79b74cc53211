//! Standard error: messages beside the results.

use std::fmt;

use super::printable;
use crate::stderr;

/// Prints a line. With any contents it stays one line of visible characters; a missing reader does not matter.
pub fn line(words: fmt::Arguments<'_>) {
    stderr::write(format!("{}\n", printable(&words.to_string())));
}

/// Draws over the last line of a terminal: only ebusy's own words and escape sequences.
pub fn draw(picture: fmt::Arguments<'_>) {
    stderr::write(picture.to_string());
}

/// Prints a line, with the arguments of `format!`.
macro_rules! say {
    ($($words:tt)*) => { $crate::text::say::line(format_args!($($words)*)) };
}
pub(crate) use say;
