//! Inputs that differ a little from others, and are still what they were: a line of JSON remains JSON, and a capture has
//! the lengths and checksums of what is in it. Changing bytes alone never gets past those.

use serde_json::{Map, Value};

use super::noise::Noise;
use crate::capture::frames;

/// What the bytes of an input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// Nothing that is known here.
    Bytes,
    /// One value of JSON.
    Json,
    /// Lines of JSON, each of which may have anything of another.
    Records,
    /// The same in the blocks of a segment.
    Segment,
}

/// A record of each kind, and more of those that others refer to: whatever may be missing in an input.
pub(super) const RECORDS: &str = include_str!("records.jsonl");

/// Lines of an input at the most; of longer ones only bytes are changed.
const LINES_MAX: usize = 4096;

/// Strings that are special somewhere.
const STRINGS: &[&str] = &[
    "",
    "/",
    "a",
    "x: kill -9 1 (",
    "'; kill -9 1; '",
    "$(reboot)",
    "-rf",
    "<script>alert(1)</script>",
    "\u{1b}[2J\u{1b}]0;x\u{7}",
    "\n\r\n",
    "\u{202e}\u{200b}",
    "\\x1b",
    "\u{0}",
    "..",
    "/a/../../b",
    "overlay",
    "fuse",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs",
    "/var/lib/kubelet/pods/0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e/volumes/x/y",
    "4294967296",
    "2026-11-26T22:27:18.887227460Z",
];

impl Grammar {
    /// Something that differs from the bytes in some places.
    #[must_use]
    pub fn mutate(self, bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
        let mutated = match self {
            Self::Bytes => None,
            Self::Json => json(bytes, noise),
            Self::Records => Some(lines(bytes, noise)),
            Self::Segment => segment(bytes, noise),
        };
        mutated.unwrap_or_else(|| some_bytes(bytes, noise))
    }
}

/// One change: a byte, a cut, a part twice, or the same byte many times.
fn some_bytes(bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = noise.below(bytes.len());
    match noise.below(4) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
        }
        1 => bytes.truncate(at),
        2 => {
            let part = bytes[at..(at + 64).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let value = noise.below(256) as u8;
            let end = (at + noise.below(8)).min(bytes.len());
            bytes[at..end].fill(value);
        }
    }
    bytes
}

fn json(bytes: &[u8], noise: &mut Noise) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    for _ in 0..=noise.below(3) {
        let others = value.clone();
        change(&mut value, "", &[others], noise);
    }
    serde_json::to_vec(&value).ok()
}

/// The blocks as they are, with other lines.
fn segment(bytes: &[u8], noise: &mut Noise) -> Option<Vec<u8>> {
    let (mut header, mut blocks) = frames::unpack(bytes)?;
    match noise.below(8) {
        0 => header = json(&header, noise)?,
        1 => {
            let at = noise.below(blocks.len());
            let block = blocks.get(at)?.clone();
            blocks.insert(at, block);
        }
        2 => {
            let at = noise.below(blocks.len());
            blocks.get_mut(at)?.0 = noise.below(5) as u32;
        }
        3 => {
            let (one, other) = (noise.below(blocks.len()), noise.below(blocks.len()));
            if blocks.is_empty() {
                return None;
            }
            blocks.swap(one, other);
        }
        _ => {
            let at = noise.below(blocks.len());
            let block = blocks.get_mut(at)?;
            block.1 = lines(&block.1, noise);
        }
    }
    // What blocks say of their place among the records; now and then something else.
    let mut places = Vec::new();
    let mut first = 0_u64;
    for (_, lines) in &blocks {
        let count = frames::count(lines);
        let lies = noise.once_in(16).then(|| (noise.number(), noise.number() as u32));
        places.push(lies.unwrap_or((first, count)));
        first += u64::from(count);
    }
    frames::pack(&header, &blocks, |index| places[index])
}

/// Other records, or the same in another order, or with something of one another.
fn lines(bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.len() > LINES_MAX {
        return some_bytes(bytes, noise);
    }
    for _ in 0..=noise.below(4) {
        let at = noise.below(lines.len());
        match noise.below(12) {
            0 if lines.len() > 1 => drop(lines.remove(at)),
            1 => {
                let other = noise.below(lines.len());
                lines.swap(at, other);
            }
            2 => {
                let copies = vec![lines[at].clone(); 1 + noise.below(16)];
                lines.splice(at..at, copies);
            }
            3..5 => {
                let records: Vec<&str> = RECORDS.lines().collect();
                let record = noise
                    .one_of(&records)
                    .map_or(&b""[..], |record| record.as_bytes());
                lines.insert(at + 1, record.to_vec());
            }
            5 => lines[at] = some_bytes(&lines[at], noise),
            _ => {
                let near: Vec<Value> = (0..4)
                    .filter_map(|_| {
                        serde_json::from_slice(noise.one_of(&lines).map_or(&[], Vec::as_slice)).ok()
                    })
                    .collect();
                if let Ok(mut value) = serde_json::from_slice::<Value>(&lines[at]) {
                    change(&mut value, "", &near, noise);
                    lines[at] = record(value);
                }
            }
        }
    }
    lines.join(&b'\n')
}

/// The name of its kind comes first, as in what ebusy writes: that is read in another way.
fn record(value: Value) -> Vec<u8> {
    let mut value = value;
    let name = value.as_object_mut().and_then(|object| object.remove("record"));
    let rest = value.to_string();
    match (name, rest.strip_prefix('{')) {
        (Some(name), Some("}")) => format!("{{\"record\":{name}}}"),
        (Some(name), Some(rest)) => format!("{{\"record\":{name},{rest}"),
        _ => rest,
    }
    .into_bytes()
}

/// Changes one value within `value`, which its object has under that key.
fn change(value: &mut Value, key: &str, others: &[Value], noise: &mut Noise) {
    // Into what it consists of, more often than not.
    match value {
        Value::Array(items) if !items.is_empty() && !noise.once_in(3) => {
            let at = noise.below(items.len());
            return change(&mut items[at], key, others, noise);
        }
        Value::Object(fields) if !fields.is_empty() && !noise.once_in(8) => {
            let at = noise.below(fields.len());
            if let Some((key, field)) = fields.iter_mut().nth(at) {
                let key = key.clone();
                return change(field, &key, others, noise);
            }
        }
        _ => {}
    }
    // What another record has there: so they meet.
    if noise.once_in(3) {
        let found = noise.one_of(others).and_then(|other| find(other, key));
        if let Some(found) = found {
            *value = found.clone();
            return;
        }
    }
    match value {
        Value::Number(number) => *value = other_number(number, noise),
        Value::String(text) => *value = other_text(text, noise),
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *value = anything(noise),
        Value::Array(items) => many(items, noise),
        Value::Object(fields) => other_fields(fields, noise),
    }
    if noise.once_in(24) {
        *value = anything(noise);
    }
}

fn other_number(number: &serde_json::Number, noise: &mut Noise) -> Value {
    let old = number.as_u64().unwrap_or(0);
    match noise.below(10) {
        0 => 0.into(),
        1 => u64::MAX.into(),
        2 => i64::MAX.into(),
        3 => i64::MIN.into(),
        4 => u32::MAX.into(),
        5 => (-16).into(),
        6 => old.wrapping_add(1_000_000_000 * noise.below(100) as u64).into(),
        7 => noise.number().into(),
        8 => (noise.below(16) as u64).into(),
        _ => old.wrapping_sub(1 + noise.below(3) as u64).into(),
    }
}

fn other_text(text: &str, noise: &mut Noise) -> Value {
    let other = noise.one_of(STRINGS).copied().unwrap_or_default();
    match noise.below(5) {
        0 => format!("{text}{other}").into(),
        1 => format!("{other}{text}").into(),
        2 => text
            .repeat(1 + noise.below(200))
            .chars()
            .take(5_000)
            .collect::<String>()
            .into(),
        3 => text
            .chars()
            .take(noise.below(text.len()))
            .collect::<String>()
            .into(),
        _ => other.into(),
    }
}

fn many(items: &mut Vec<Value>, noise: &mut Noise) {
    let at = noise.below(items.len());
    match (items.get(at).cloned(), noise.below(3)) {
        (Some(_), 0) => drop(items.remove(at)),
        (Some(item), 1) => {
            let copies = vec![item; 1 + noise.below(32)];
            items.splice(at..at, copies);
        }
        (Some(_), _) => items.clear(),
        (None, _) => items.push(anything(noise)),
    }
}

fn other_fields(fields: &mut Map<String, Value>, noise: &mut Noise) {
    let at = noise.below(fields.len());
    let Some(key) = fields.keys().nth(at).cloned() else {
        fields.insert("a".to_owned(), anything(noise));
        return;
    };
    match noise.below(3) {
        0 => drop(fields.remove(&key)),
        1 => drop(fields.insert(key, anything(noise))),
        _ => {
            let value = fields[&key].clone();
            for copy in 0..=noise.below(32) {
                fields.insert(format!("{key}{copy}"), value.clone());
            }
        }
    }
}

fn anything(noise: &mut Noise) -> Value {
    match noise.below(7) {
        0 => Value::Null,
        1 => true.into(),
        2 => noise.number().into(),
        3 => 1.5.into(),
        4 => Value::Array(Vec::new()),
        5 => Value::Object(Map::new()),
        _ => noise.one_of(STRINGS).copied().unwrap_or_default().into(),
    }
}

/// The first value under that key, at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        Value::Object(fields) => fields
            .get(key)
            .or_else(|| fields.values().find_map(|field| find(field, key))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{Grammar, RECORDS};
    use crate::{capture::frames, fuzz::Noise, stream::Record};

    #[test]
    fn there_is_a_record_of_each_kind() {
        let found: BTreeSet<&str> = RECORDS
            .lines()
            .map(|line| {
                let record: Record =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                record.name()
            })
            .collect();
        assert_eq!(found, BTreeSet::from(Record::NAMES));
    }

    /// How many of these lines are records.
    fn records(lines: &[u8]) -> usize {
        let lines = lines.split(|byte| *byte == b'\n');
        lines
            .filter(|line| serde_json::from_slice::<Record>(line).is_ok())
            .count()
    }

    #[test]
    fn a_mutated_input_is_another_one_that_can_be_read() {
        let all = RECORDS.lines().count();
        let header = br#"{"format":1,"start":{"version":"0","kernel":"6.1","tier":"fentry","clock":{"offset_nanos":0}}}"#;
        let blocks = [(1, RECORDS.as_bytes().to_vec())];
        let segment = frames::pack(header, &blocks, |_| (0, 0)).unwrap();
        let (mut of_lines, mut of_segments, mut same) = (0, 0, 0);
        for seed in 0..200 {
            let mut noise = Noise(seed);
            let lines = Grammar::Records.mutate(RECORDS.as_bytes(), &mut noise);
            of_lines += usize::from(records(&lines) + 4 > all);
            same += usize::from(lines == RECORDS.as_bytes());
            let segment = Grammar::Segment.mutate(&segment, &mut noise);
            let found = frames::unpack(&segment).unwrap();
            of_segments += usize::from(found.1.iter().any(|block| records(&block.1) + 4 > all));
            let json = Grammar::Json.mutate(br#"{"a":[1,{"b":"c"}]}"#, &mut noise);
            serde_json::from_slice::<Value>(&json).unwrap();
        }
        assert!(
            of_lines > 150 && of_segments > 150 && same < 20,
            "{of_lines} {of_segments} {same}"
        );
    }

    #[test]
    fn nothing_is_mutated_too() {
        for grammar in [Grammar::Bytes, Grammar::Json, Grammar::Records, Grammar::Segment] {
            for seed in 0..100 {
                let _ = grammar.mutate(b"", &mut Noise(seed));
                let _ = grammar.mutate(b"[]", &mut Noise(seed));
            }
        }
    }
}
