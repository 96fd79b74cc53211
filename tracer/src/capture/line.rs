//! A record as a line of JSON.

use serde::{Deserialize, de::DeserializeOwned};

use crate::stream::Record;

/// What each line begins with; the name of the type follows.
const BEGIN: &[u8] = b"{\"record\":\"";

/// Decodes a line; `None` for a type of record that this version does not know. The line is not the same afterwards.
///
/// Serde has to buffer a record whose type is named within it. As the name comes first in what ebusy writes, the
/// rest is decoded as that type at once.
pub(super) fn decode(line: &mut [u8]) -> serde_json::Result<Option<Record>> {
    let Some(comma) = comma_after_name(line) else {
        return slow(line);
    };
    // A copy of the few bytes of the name: the line is changed under it.
    let mut name = [0; 16];
    let Some(name) = name.get_mut(..comma - 1 - BEGIN.len()) else {
        return slow(line);
    };
    name.copy_from_slice(&line[BEGIN.len()..comma - 1]);
    line[comma] = b'{';
    let rest = &line[comma..];
    let record = match &*name {
        b"opened" => Record::Opened(parse(rest)?),
        b"closed" => Record::Closed(parse(rest)?),
        b"umount" => Record::Umount(parse(rest)?),
        b"entered" => Record::Entered(parse(rest)?),
        b"named" => Record::Named(parse(rest)?),
        b"snapshot" => Record::Snapshot(parse(rest)?),
        b"tick" => Record::Tick {
            time: parse::<Time>(rest)?.time,
        },
        _ => {
            line[comma] = b',';
            return slow(line);
        }
    };
    Ok(Some(record))
}

#[derive(Deserialize)]
struct Time {
    time: u64,
}

fn parse<T: DeserializeOwned>(rest: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(rest)
}

/// Where the comma after the name of the type is.
fn comma_after_name(line: &[u8]) -> Option<usize> {
    let name = line.strip_prefix(BEGIN)?;
    let end = name.iter().take(16).position(|byte| *byte == b'"')?;
    (name.get(end + 1) == Some(&b',')).then_some(BEGIN.len() + end + 1)
}

fn slow(line: &[u8]) -> serde_json::Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Tag {
        record: String,
    }
    match serde_json::from_slice(line) {
        Ok(record) => Ok(Some(record)),
        Err(error) => match serde_json::from_slice::<Tag>(line) {
            Ok(tag) if !Record::NAMES.contains(&tag.record.as_str()) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::decode;
    use crate::stream::{Closed, Record};

    #[test]
    fn both_ways_of_decoding_agree() {
        let closed = Record::Closed(Closed { time: 1, file: 2 });
        for line in [
            r#"{"record":"closed","time":1,"file":2}"#,
            r#"{"time":1,"record":"closed","file":2}"#,
            r#"{"record":"closed","new":[1],"time":1,"file":2}"#,
            r#"{ "record" : "closed" , "time":1,"file":2}"#,
        ] {
            assert_eq!(
                decode(&mut line.as_bytes().to_vec()).unwrap(),
                Some(closed.clone()),
                "{line}"
            );
        }
    }

    #[test]
    fn a_type_of_a_newer_version_is_no_error_but_a_broken_record_is() {
        let decode = |line: &str| decode(&mut line.as_bytes().to_vec());
        assert_eq!(decode(r#"{"record":"weather","rain":true}"#).unwrap(), None);
        assert_eq!(
            decode(r#"{"record":"a name of more than sixteen letters","rain":true}"#).unwrap(),
            None
        );
        assert!(decode(r#"{"record":"closed","time":-1}"#).is_err());
        assert!(decode(r#"{"record":"closed""#).is_err());
        assert!(decode("\u{0}").is_err());
        assert!(decode("").is_err());
    }

    #[test]
    fn every_type_has_its_name() {
        for name in Record::NAMES {
            // Known, but not whole.
            assert!(
                decode(&mut format!(r#"{{"record":"{name}","x":0}}"#).into_bytes()).is_err(),
                "{name}"
            );
        }
    }
}
