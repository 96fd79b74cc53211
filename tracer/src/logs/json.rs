//! Logs whose lines are JSON objects: journal, Docker, logrus, zap, slog, and those that clouds and collectors wrap
//! around other logs.

use serde_json::{Map, Value};

use super::{
    record::Record,
    stamp::{self, LogClock, Stamp},
    text::{quoted, without_colours},
};

/// Objects in objects.
const DEPTH_MAX: usize = 4;
/// Bytes of a message that is made of fields.
const BYTES_MAX: usize = 64 << 10;

/// Fields that have the whole line of somebody else; what is beside them is about who logged it.
const WRAPPERS: [&str; 4] = ["MESSAGE", "log", "textPayload", "LogEntry"];
/// Objects that are about who logged it, and not about what.
const ABOUT_THE_LOG: [&str; 9] = [
    "kubernetes",
    "docker",
    "resource",
    "labels",
    "agent",
    "host",
    "sourceLocation",
    "operation",
    "httpRequest",
];

/// What an object says.
pub(super) struct Inner {
    pub(super) message: Vec<u8>,
    /// One of its fields, which may be a line with a header of its own.
    pub(super) line: Option<Vec<u8>>,
}

/// The message of a line that is an object.
pub(super) fn read(record: &mut Record, message: &[u8], clock: &LogClock) -> Option<Inner> {
    if message.first() != Some(&b'{') {
        return None;
    }
    match serde_json::from_slice(message).ok()? {
        Value::Object(object) => of_object(record, &object, clock, DEPTH_MAX),
        _ => None,
    }
}

fn of_object(
    record: &mut Record,
    object: &Map<String, Value>,
    clock: &LogClock,
    depth: usize,
) -> Option<Inner> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    record.note(time_of(object, clock));
    let source = ["SYSLOG_IDENTIFIER", "_COMM", "ident"].into_iter().find_map(text);
    record.from(source.unwrap_or_default());
    if let Some(line) = WRAPPERS.into_iter().find_map(|key| object.get(key)) {
        return Some(Inner {
            message: without_colours(bytes(line).trim_ascii_end()).into_owned(),
            line: None,
        });
    }
    let inner = ["jsonPayload", "body", "event"]
        .into_iter()
        .find_map(|key| object.get(key)?.as_object());
    if let Some(inner) = inner.filter(|_| depth > 0) {
        return of_object(record, inner, clock, depth - 1);
    }
    // Everything that was said, in the form of logfmt, so that there is one way to read it.
    let mut said = String::new();
    flatten(&mut said, "", object, DEPTH_MAX);
    if said.is_empty() {
        return None;
    }
    let line = ["message", "msg", "stringValue"].into_iter().find_map(text);
    Some(Inner {
        message: said.into_bytes(),
        line: line.map(|line| without_colours(line.as_bytes()).into_owned()),
    })
}

/// Texts of an object and of those in it.
fn flatten(said: &mut String, prefix: &str, object: &Map<String, Value>, depth: usize) {
    for (key, value) in object {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
        if said.len() > BYTES_MAX || !key.bytes().all(plain) || ABOUT_THE_LOG.contains(&key.as_str()) {
            continue;
        }
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::String(text) => add(said, &name, text),
            Value::Object(inner) if depth > 0 => flatten(said, &name, inner, depth - 1),
            Value::Array(list) if depth > 0 => {
                for text in list.iter().filter_map(Value::as_str).take(64) {
                    add(said, &name, text);
                }
            }
            _ => {}
        }
    }
}

fn add(said: &mut String, name: &str, text: &str) {
    if !said.is_empty() {
        said.push(' ');
    }
    said.push_str(name);
    said.push('=');
    said.push_str(&quoted(text));
}

fn time_of(object: &Map<String, Value>, clock: &LogClock) -> Option<Stamp> {
    const JOURNAL: [&str; 2] = ["_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"];
    const NAMES: [&str; 14] = [
        "time",
        "ts",
        "timestamp",
        "@timestamp",
        "@t",
        "t",
        "date",
        "datetime",
        "asctime",
        "eventTime",
        "lastTimestamp",
        "TimeGenerated",
        "timeUnixNano",
        "observedTimeUnixNano",
    ];
    let journal = JOURNAL
        .into_iter()
        .find_map(|key| stamp::microseconds(object.get(key)?.as_str()?));
    journal.or_else(|| {
        NAMES.into_iter().find_map(|key| match object.get(key)? {
            Value::String(text) => {
                let number = || text.parse().ok().and_then(stamp::epoch);
                stamp::rfc3339(text, clock)
                    .or_else(number)
                    .or_else(|| stamp::mail(text))
            }
            Value::Number(number) => stamp::epoch(number.as_f64()?),
            _ => None,
        })
    })
}

/// A journal message that is no UTF-8 is an array of numbers.
fn bytes(message: &Value) -> Vec<u8> {
    match message {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(list) => list
            .iter()
            .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
            .collect(),
        _ => Vec::new(),
    }
}
