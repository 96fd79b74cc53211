//! Lines of any bytes, however long, in bounded memory.

use std::io::{self, BufRead, ErrorKind};

/// What is kept of a line. A journal entry is at most 48 KiB of message by default, and Docker cuts at 16 KiB.
pub(super) const KEPT: usize = 64 << 10;

/// A line without its end.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The first [`KEPT`] bytes.
    pub(super) bytes: Vec<u8>,
    /// Bytes before it in the log.
    pub(super) offset: u64,
    /// Whether it was longer.
    pub(super) cut: bool,
}

/// Reads the next line into `line`; false at the end.
pub(super) fn read(reader: &mut impl BufRead, line: &mut Line, position: &mut u64) -> io::Result<bool> {
    line.bytes.clear();
    line.cut = false;
    line.offset = *position;
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let text = &chunk[..end.unwrap_or(chunk.len())];
        let room = KEPT.saturating_sub(line.bytes.len());
        line.bytes.extend_from_slice(&text[..text.len().min(room)]);
        line.cut |= text.len() > room;
        let used = text.len() + usize::from(end.is_some());
        *position += used as u64;
        reader.consume(used);
        if end.is_some() {
            break;
        }
        if used == 0 {
            return Ok(*position > line.offset);
        }
    }
    if line.bytes.last() == Some(&b'\r') {
        line.bytes.pop();
    }
    Ok(true)
}

/// Reads a field of the journal's export format that is not text: its length in eight bytes, the bytes, and a line feed.
/// Keeps the first [`KEPT`] bytes.
pub(super) fn read_binary(reader: &mut impl BufRead, position: &mut u64) -> io::Result<Vec<u8>> {
    let mut length = Vec::new();
    take(reader, 8, &mut length, position)?;
    let Ok(length) = <[u8; 8]>::try_from(length.as_slice()) else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    take(reader, u64::from_le_bytes(length), &mut bytes, position)?;
    take(reader, 1, &mut Vec::new(), position)?;
    Ok(bytes)
}

fn take(reader: &mut impl BufRead, mut count: u64, into: &mut Vec<u8>, position: &mut u64) -> io::Result<()> {
    while count > 0 {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let used = chunk.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        if used == 0 {
            break;
        }
        let room = KEPT.saturating_sub(into.len());
        into.extend_from_slice(&chunk[..used.min(room)]);
        reader.consume(used);
        *position += used as u64;
        count -= used as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::{KEPT, Line, read};

    fn all(bytes: &[u8]) -> Vec<(Vec<u8>, u64, bool)> {
        // A small buffer, so that lines come in pieces.
        let mut reader = BufReader::with_capacity(7, bytes);
        let (mut line, mut position, mut lines) = (Line::default(), 0, Vec::new());
        while read(&mut reader, &mut line, &mut position).unwrap() {
            lines.push((line.bytes.clone(), line.offset, line.cut));
        }
        lines
    }

    #[test]
    fn lines_and_where_they_begin() {
        let lines = all(b"one\r\n\ntwo\0\xff is longer\nlast");
        let expected: [(&[u8], u64, bool); 4] = [
            (b"one", 0, false),
            (b"", 5, false),
            (b"two\0\xff is longer", 6, false),
            (b"last", 22, false),
        ];
        let expected: Vec<_> = expected.map(|(line, at, cut)| (line.to_vec(), at, cut)).into();
        assert_eq!(lines, expected);
        assert!(all(b"").is_empty());
    }

    #[test]
    fn a_huge_line_is_cut_and_the_next_one_is_not() {
        let mut bytes = vec![b'x'; KEPT + 5];
        bytes.extend(b"\nnext\n");
        let lines = all(&bytes);
        assert_eq!((lines[0].0.len(), lines[0].2), (KEPT, true));
        assert_eq!(lines[1], (b"next".to_vec(), KEPT as u64 + 6, false));
    }
}
