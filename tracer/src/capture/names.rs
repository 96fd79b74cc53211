//! What segments are called, and how their paths are shown.

use std::path::Path;

use crate::text::escape;

/// What every segment is called: its number, and when it was begun.
pub(super) const PREFIX: &str = "ebusy-";
/// The end of its name.
pub(super) const SUFFIX: &str = ".zst";

/// The number in the name of a segment.
pub(super) fn segment_number(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let number = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    number.split('-').next()?.parse().ok()
}

/// A path in a sentence.
pub(super) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
