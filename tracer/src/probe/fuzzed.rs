//! Texts of securityfs and tracefs, as a function of bytes that gives nothing: for fuzzing.

use super::{kprobe, lockdown};

/// Any text as each of them.
pub(crate) fn fuzzed(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = lockdown::parse(text);
        let _ = kprobe::ours(text).count();
    }
}
