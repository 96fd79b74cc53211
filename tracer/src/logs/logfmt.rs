//! The time of logfmt, of logrus and of slog, which is one of the first fields.

use super::stamp::{self, LogClock, Stamp};

/// Fields that are looked at.
const FIELDS_MAX: usize = 6;

/// `time="..."`, `ts=...`, `level=error t=...`.
pub(super) fn stamp(message: &[u8], clock: &LogClock) -> Option<Stamp> {
    let head = &message[..message.len().min(256)];
    let head = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
    };
    let mut rest = head;
    for _ in 0..FIELDS_MAX {
        let (key, after) = rest.split_once('=')?;
        if key.is_empty()
            || !key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_@.".contains(&byte))
        {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(after) => after.split_once('"')?,
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        if matches!(key, "time" | "ts" | "t" | "timestamp" | "at" | "@timestamp") {
            let number = || value.parse().ok().and_then(stamp::epoch);
            return stamp::rfc3339(value, clock).or_else(number);
        }
        rest = after.trim_start();
    }
    None
}
