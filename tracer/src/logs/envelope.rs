//! What logs put around a message: journal, syslog, CRI and Docker files, klog, logrus, the kernel's ring.
//!
//! Layers are peeled from the outside. Of several times the innermost whole one counts: it is the one of who speaks.

use serde_json::{Map, Value};

use super::stamp::{self, LogClock, Stamp};

/// Layers of one line: a journal entry of a container's log of a JSON log has three.
const LAYERS: usize = 6;

/// A line without what is around its message.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) stamp: Option<Stamp>,
    /// The program that logged it.
    pub(super) source: Option<String>,
    pub(super) message: Vec<u8>,
    /// Whether the line began like one: else it continues the one before.
    pub(super) headed: bool,
}

/// Peels a line.
pub(super) fn peel(line: &[u8], clock: &LogClock) -> Record {
    // Files that were open when a machine stopped have NULs where nothing was written.
    let start = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
    let mut record = Record {
        message: line[start..].to_vec(),
        ..Record::default()
    };
    for _ in 0..LAYERS {
        if !peel_one(&mut record, clock) {
            break;
        }
        record.headed = true;
    }
    if let Some(stamp) = logfmt(&record.message, clock) {
        record.headed = true;
        record.note(Some(stamp));
    }
    record
}

impl Record {
    fn note(&mut self, stamp: Option<Stamp>) {
        if let Some(stamp) = stamp
            && (stamp.whole || self.stamp.is_none_or(|known| !known.whole))
        {
            self.stamp = Some(stamp);
        }
    }

    fn from(&mut self, source: &str) {
        if !source.is_empty() && source.len() <= 64 {
            self.source = Some(source.to_owned());
        }
    }
}

fn peel_one(record: &mut Record, clock: &LogClock) -> bool {
    let message = std::mem::take(&mut record.message);
    if message.first() == Some(&b'{')
        && let Ok(Value::Object(object)) = serde_json::from_slice(&message)
        && let Some(inner) = json(record, &object, clock)
    {
        record.message = inner;
        return true;
    }
    let Some(length) = header(record, &message, clock) else {
        record.message = message;
        return false;
    };
    let rest = &message[length.min(message.len())..];
    let start = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
    record.message = rest[start..].to_vec();
    true
}

/// `journalctl -o json`, Docker's json-file, JSON of logrus, of zap and of the kubelet.
fn json(record: &mut Record, object: &Map<String, Value>, clock: &LogClock) -> Option<Vec<u8>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    if let Some(message) = object.get("MESSAGE") {
        let stamp = ["_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"];
        record.note(stamp.into_iter().find_map(|key| stamp::microseconds(text(key)?)));
        let source = ["SYSLOG_IDENTIFIER", "_COMM"].into_iter().find_map(text);
        record.from(source.unwrap_or_default());
        return Some(bytes(message));
    }
    let stamp = ["time", "ts", "timestamp", "@timestamp"]
        .into_iter()
        .find_map(|key| match object.get(key)? {
            Value::String(text) => stamp::rfc3339(text, clock),
            Value::Number(number) => stamp::epoch(number.as_f64()?),
            _ => None,
        });
    record.note(stamp);
    if let Some(log) = text("log") {
        return Some(log.trim_end().as_bytes().to_vec());
    }
    // Everything that was said, in the form of logfmt, so that there is one way to read it.
    let said = ["msg", "message", "error", "err"];
    if !said
        .iter()
        .any(|key| object.get(*key).is_some_and(Value::is_string))
    {
        return None;
    }
    let named = object.iter().filter(|(key, value)| {
        value.is_string()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    });
    let pairs = named.map(|(key, value)| format!("{key}={value}"));
    Some(pairs.collect::<Vec<_>>().join(" ").into_bytes())
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

/// The length of the header at the beginning.
fn header(record: &mut Record, message: &[u8], clock: &LogClock) -> Option<usize> {
    let head = &message[..message.len().min(200)];
    let head = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
    };
    priority(head)
        .or_else(|| kmsg(record, head, clock))
        .or_else(|| ring(record, head, clock))
        .or_else(|| klog(record, head, clock))
        .or_else(|| dated(record, head, clock))
}

/// `<3>`, of `dmesg -r` and of syslog on the wire.
fn priority(head: &str) -> Option<usize> {
    let (number, _) = head.strip_prefix('<')?.split_once('>')?;
    (number.len() <= 3 && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number.len() + 2)
}

/// `3,1234,447193907,-;`, of /dev/kmsg.
fn kmsg(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let (prefix, _) = head.split_once(';')?;
    let mut parts = prefix.split(',');
    let (level, sequence, time) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if ![level, sequence, time].into_iter().all(digits) {
        return None;
    }
    let micros: f64 = time.parse().ok()?;
    record.note(stamp::since_boot(&(micros / 1e6).to_string(), clock));
    record.from("kernel");
    Some(prefix.len() + 1)
}

/// `[  447.193907] `, `[Fri Feb  7 11:37:40 2025] `, `[  +0.002284] `, of dmesg.
fn ring(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let (inside, _) = head.strip_prefix('[')?.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let number =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    record.note(match words.as_slice() {
        [one] if number(one) => stamp::since_boot(one, clock),
        // Since the line before.
        [one] if one.strip_prefix('+').is_some_and(number) => None,
        [_, month, day, time, year] => Some(stamp::ctime([month, day, time, year], clock)?),
        _ => return None,
    });
    // `journalctl -o short-monotonic` names host and program after it.
    let mut words = Words {
        head,
        at: inside.len() + 2,
    };
    if let (Some(_), Some(program)) = (words.next(), words.next())
        && let Some(program) = program.strip_suffix(':').filter(|_| is_program(program))
        && (program.ends_with(']') || program == "kernel")
    {
        record.from(program.split('[').next().unwrap_or(program));
        return Some(words.at);
    }
    if record.source.is_none() {
        record.from("kernel");
    }
    Some(inside.len() + 2)
}

/// `E1117 10:25:41.898748   29955 nestedpendingoperations.go:253] `.
fn klog(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let date = head.strip_prefix(['I', 'W', 'E', 'F'])?.get(..4)?;
    let (prefix, _) = head.split_once("] ")?;
    let time = prefix.get(5..)?.split_whitespace().next()?;
    record.note(Some(stamp::klog(date, time, clock)?));
    Some(prefix.len() + 2)
}

/// A date of any kind, then, where it is a journal's or syslog's, a host and a program; or the stream of a CRI log.
fn dated(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let mut words = Words { head, at: 0 };
    let first = words.next()?;
    let mut stamp = match first {
        _ if first.contains('T') => stamp::rfc3339(first, clock),
        _ if first.contains('.') => first.parse().ok().and_then(stamp::epoch),
        _ => None,
    };
    if stamp.is_none() {
        let second = words.next()?;
        // `Fri 2025-02-07 11:37:40 UTC`, of `journalctl -o short-full`.
        let (date, time) = if first.len() == 3 && second.len() == 10 {
            (second, words.next()?)
        } else {
            (first, second)
        };
        stamp = stamp::rfc3339(&format!("{date} {time}"), clock);
        if stamp.is_some() && date != first {
            words.next()?;
        }
        if stamp.is_none() {
            words = Words { head, at: 0 };
            let (month, day, time) = (words.next()?, words.next()?, words.next()?);
            stamp = stamp::syslog(month, day, time, clock);
        }
    }
    record.note(Some(stamp?));
    let end = words.at;
    match (words.next(), words.next()) {
        // The tag of a CRI log: full or part of a line.
        (Some("stdout" | "stderr"), Some("F" | "P")) => Some(words.at),
        (Some(_), Some(program)) => Some(match program.strip_suffix(':').filter(|_| is_program(program)) {
            Some(program) => {
                record.from(program.split('[').next().unwrap_or(program));
                words.at
            }
            None => end,
        }),
        _ => Some(end),
    }
}

/// `containerd[602]:`, `kernel:`.
fn is_program(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"[]:._-()@/".contains(&byte))
}

/// Words and where they end.
struct Words<'a> {
    head: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.head.get(self.at..)?;
        let start = rest.find(|char: char| char != ' ')?;
        let word = rest[start..].split(' ').next()?;
        self.at += start + word.len();
        Some(word)
    }
}

/// `time="..."` of logrus.
fn logfmt(message: &[u8], clock: &LogClock) -> Option<Stamp> {
    let rest = message.strip_prefix(b"time=")?;
    let (rest, end) = match rest.strip_prefix(b"\"") {
        Some(rest) => (rest, b'"'),
        None => (rest, b' '),
    };
    let length = rest.iter().take(64).position(|byte| *byte == end)?;
    stamp::rfc3339(std::str::from_utf8(&rest[..length]).ok()?, clock)
}
