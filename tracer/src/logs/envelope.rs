//! What logs put around a message: journal, syslog, CRI and Docker files, klog, logrus, the kernel's ring.
//!
//! Layers are peeled from the outside. Of several times the innermost whole one counts: it is the one of who speaks.

use super::{
    header::{header, rest_after},
    json, logfmt, prefix,
    record::Record,
    stamp::LogClock,
    text::without_colours,
};

/// Layers of one line: a journal entry of a container's log of a JSON log has three.
const LAYERS: usize = 8;

/// Peels a line.
pub(super) fn peel(line: &[u8], clock: &LogClock) -> Record {
    // Files that were open when a machine stopped have NULs where nothing was written.
    let start = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
    let mut record = Record {
        message: without_colours(&line[start..]).into_owned(),
        ..Record::default()
    };
    peel_message(&mut record, clock);
    record
}

/// Peels what a record has as its message.
pub(super) fn peel_message(record: &mut Record, clock: &LogClock) {
    for layer in 0..LAYERS {
        if !peel_one(record, clock, layer == 0) {
            break;
        }
        record.headed = true;
    }
    if let Some(stamp) = logfmt::stamp(&record.message, clock) {
        record.headed = true;
        record.note(Some(stamp));
    }
}

fn peel_one(record: &mut Record, clock: &LogClock, outermost: bool) -> bool {
    let message = std::mem::take(&mut record.message);
    if let Some(inner) = json::read(record, &message, clock) {
        // A collector has the line of another log as one of its fields.
        if let Some(line) = inner.line {
            let mut own = Record::default();
            if header(&mut own, &line, clock).is_some() {
                record.note(own.stamp);
                record.from(own.source.as_deref().unwrap_or_default());
            }
        }
        record.message = inner.message;
        return true;
    }
    let found = header(record, &message, clock).or_else(|| {
        // What others put before whole lines: grep, kubectl, stern, docker compose.
        let may_follow = outermost && !prefix::is_record(&message);
        let skipped = may_follow.then(|| prefix::skip(&message, clock)).flatten()?;
        let rest = &message[skipped..];
        if prefix::is_record(rest) {
            return Some(skipped);
        }
        Some(skipped + header(record, rest, clock)?)
    });
    let Some(length) = found else {
        record.message = message;
        return false;
    };
    record.message = rest_after(&message, length).to_vec();
    true
}
