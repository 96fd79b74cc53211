//! A recorded stream: JSON lines, a record each.

use std::io::BufRead;

use super::Record;
use crate::incident::{Analyzer, Output};

/// A line of a capture at the most; a snapshot of many holders is long.
const LINE_MAX: u64 = 256 << 20;

/// What a capture does not have, or has wrong.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It does not begin with a `start` record.
    #[error("byte 0: the capture does not begin with a start record")]
    Start,
    /// A line that is no record.
    #[error("byte {offset} (line {line}): {error}")]
    Record {
        /// Where the line begins.
        offset: u64,
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// It could not be read.
    #[error("byte {offset}: {error}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// Why not further.
        error: std::io::Error,
    },
}

/// Replays a capture; gives all that came before an error, too.
pub fn replay(capture: impl BufRead) -> (Vec<Output>, Result<(), ReplayError>) {
    let mut output = Vec::new();
    let result = each(capture, &mut output);
    (output, result)
}

fn each(mut capture: impl BufRead, output: &mut Vec<Output>) -> Result<(), ReplayError> {
    let mut analyzer: Option<Analyzer> = None;
    let (mut offset, mut line) = (0, 0);
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = std::io::Read::take(&mut capture, LINE_MAX).read_until(b'\n', &mut text);
        let read = read.map_err(|error| ReplayError::Read { offset, error })?;
        if read == 0 {
            return if analyzer.is_some() {
                Ok(())
            } else {
                Err(ReplayError::Start)
            };
        }
        line += 1;
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| ReplayError::Record { offset, line, error })?;
        match (&mut analyzer, record) {
            (None, Record::Start(start)) => analyzer = Some(Analyzer::new(start)),
            (None, _) => return Err(ReplayError::Start),
            (Some(analyzer), record) => output.extend(analyzer.push(record)),
        }
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::{ReplayError, replay};

    #[test]
    fn a_malformed_capture_names_the_offset() {
        assert!(matches!(replay(&b""[..]).1, Err(ReplayError::Start)));
        assert!(matches!(
            replay(&b"{\"record\":\"tick\",\"time\":1}\n"[..]).1,
            Err(ReplayError::Start)
        ));
        let start =
            br#"{"record":"start","version":"0","kernel":"k","tier":"fentry","clock":{"offset_nanos":0}}"#;
        let capture = [&start[..], b"\n{\"record\":\"tick\",\"time\":1}\ngarbage\n"].concat();
        let (_, result) = replay(&capture[..]);
        let error = result.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("byte {} (line 3)", start.len() + 28)),
            "{error}"
        );
    }
}
