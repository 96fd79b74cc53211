//! Lines that are one record: entries of the journal's export format, and JSON objects over several lines.
//!
//! What begins like a record of several lines and does not end like one is given out as the lines that it is.

use std::collections::VecDeque;

use super::{
    lines::{KEPT, Line},
    stamp::{self, Stamp},
};

/// Lines of one object.
const LINES_MAX: usize = 2000;

/// Something to be read: a line, or what several of them say.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) bytes: Vec<u8>,
    /// The number of its first line.
    pub(super) line: u64,
    /// Bytes before it in the log.
    pub(super) offset: u64,
    /// It is the message of a record that has these: nothing is around it.
    pub(super) journal: Option<(Option<Stamp>, Option<String>)>,
}

/// Puts lines together.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    export: Option<Export>,
    object: Option<Object>,
}

/// What follows a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another line.
    Line,
    /// The value of the field that the line names, with its length before it.
    Binary,
}

/// An entry of the journal that has begun.
#[derive(Debug, Default)]
struct Export {
    /// Where its message is.
    line: u64,
    offset: u64,
    message: Option<Vec<u8>>,
    stamp: Option<Stamp>,
    source: Option<String>,
    /// The field whose value is to come.
    field: Vec<u8>,
}

/// An object that has begun.
#[derive(Debug)]
struct Object {
    indent: usize,
    lines: Vec<Entry>,
    bytes: usize,
}

impl Assembler {
    /// Takes the next line; what is complete goes into `out`.
    pub(super) fn line(&mut self, line: &Line, number: u64, out: &mut VecDeque<Entry>) -> Next {
        if let Some(export) = &mut self.export {
            if line.bytes.is_empty() {
                self.end_export(out);
            } else if !export.take(&line.bytes, number, line.offset) {
                return Next::Binary;
            }
            return Next::Line;
        }
        if is_export(&line.bytes) {
            self.end_object(out);
            let mut export = Export::default();
            export.take(&line.bytes, number, line.offset);
            self.export = Some(export);
            return Next::Line;
        }
        let entry = Entry {
            bytes: line.bytes.clone(),
            line: number,
            offset: line.offset,
            journal: None,
        };
        let text = line.bytes.trim_ascii();
        let indent = line.bytes.len() - line.bytes.trim_ascii_start().len();
        match &mut self.object {
            Some(object) if object.lines.len() < LINES_MAX && object.bytes + line.bytes.len() <= KEPT => {
                object.bytes += line.bytes.len() + 1;
                object.lines.push(entry);
                if object.indent == indent && matches!(text, b"}" | b"}," | b"}]") {
                    self.close_object(out);
                }
            }
            _ => {
                self.end_object(out);
                if text == b"{" || text == b"[{" {
                    self.object = Some(Object {
                        indent,
                        lines: vec![entry],
                        bytes: line.bytes.len(),
                    });
                } else {
                    out.push_back(entry);
                }
            }
        }
        Next::Line
    }

    /// Takes the value that [`Next::Binary`] asked for.
    pub(super) fn binary(&mut self, value: Vec<u8>) {
        if let Some(export) = &mut self.export {
            let field = std::mem::take(&mut export.field);
            export.set(&field, value);
        }
    }

    /// The log has ended.
    pub(super) fn end(&mut self, out: &mut VecDeque<Entry>) {
        self.end_export(out);
        self.end_object(out);
    }

    fn end_export(&mut self, out: &mut VecDeque<Entry>) {
        if let Some(export) = self.export.take()
            && let Some(message) = export.message
        {
            out.push_back(Entry {
                bytes: message,
                line: export.line,
                offset: export.offset,
                journal: Some((export.stamp, export.source)),
            });
        }
    }

    /// One line of all.
    fn close_object(&mut self, out: &mut VecDeque<Entry>) {
        let Some(object) = self.object.take() else { return };
        let mut bytes = Vec::with_capacity(object.bytes);
        for line in &object.lines {
            bytes.extend_from_slice(line.bytes.trim_ascii());
        }
        // Between the brackets of a list and the commas in it.
        let start = usize::from(bytes.first() == Some(&b'['));
        let end = bytes
            .iter()
            .rposition(|byte| *byte == b'}')
            .map_or(start, |at| at + 1);
        let first = object.lines.first().map(|first| (first.line, first.offset));
        let whole = bytes
            .get(start..end)
            .zip(first)
            .map(|(bytes, (line, offset))| Entry {
                bytes: bytes.to_vec(),
                line,
                offset,
                journal: None,
            });
        let is_object = whole
            .as_ref()
            .is_some_and(|whole| serde_json::from_slice::<serde::de::IgnoredAny>(&whole.bytes).is_ok());
        match whole.filter(|_| is_object) {
            Some(whole) => out.push_back(whole),
            None => out.extend(object.lines),
        }
    }

    fn end_object(&mut self, out: &mut VecDeque<Entry>) {
        if let Some(object) = self.object.take() {
            out.extend(object.lines);
        }
    }
}

/// Every entry begins with its address.
fn is_export(line: &[u8]) -> bool {
    line.starts_with(b"__CURSOR=") || line.starts_with(b"__REALTIME_TIMESTAMP=")
}

impl Export {
    /// Takes a line of it; false where the value of the field comes as bytes.
    fn take(&mut self, line: &[u8], number: u64, offset: u64) -> bool {
        let (field, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], Some(line[at + 1..].to_vec())),
            None => (line, None),
        };
        if field == b"MESSAGE" {
            (self.line, self.offset) = (number, offset);
        }
        if let Some(value) = value {
            self.set(field, value);
            return true;
        }
        self.field = field.to_vec();
        false
    }

    fn set(&mut self, field: &[u8], value: Vec<u8>) {
        let text = String::from_utf8_lossy(&value);
        match field {
            b"MESSAGE" => self.message = Some(value),
            b"_SOURCE_REALTIME_TIMESTAMP" => self.stamp = stamp::microseconds(&text).or(self.stamp),
            b"__REALTIME_TIMESTAMP" => self.stamp = self.stamp.or_else(|| stamp::microseconds(&text)),
            b"SYSLOG_IDENTIFIER" => self.source = Some(text.into_owned()),
            b"_COMM" => self.source = self.source.take().or(Some(text.into_owned())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{Assembler, Entry, Next};
    use crate::logs::lines::Line;

    fn entries(lines: &[&str]) -> Vec<Entry> {
        let (mut assembler, mut out) = (Assembler::default(), VecDeque::new());
        for (index, text) in lines.iter().enumerate() {
            let line = Line {
                bytes: text.as_bytes().to_vec(),
                ..Line::default()
            };
            if assembler.line(&line, index as u64 + 1, &mut out) == Next::Binary {
                assembler.binary(b"bytes\nof it".to_vec());
            }
        }
        assembler.end(&mut out);
        out.into()
    }

    fn texts(lines: &[&str]) -> Vec<String> {
        let found = entries(lines).into_iter();
        found
            .map(|entry| String::from_utf8(entry.bytes).unwrap())
            .collect()
    }

    #[test]
    fn an_object_over_several_lines_is_one() {
        let lines = [
            "x",
            "[",
            "  {",
            "    \"a\": {",
            "      \"b\": 1",
            "    }",
            "  },",
            "y",
        ];
        assert_eq!(texts(&lines), ["x", "[", "{\"a\": {\"b\": 1}}", "y"]);
        assert_eq!(entries(&lines)[2].line, 3);
    }

    #[test]
    fn what_is_no_object_is_its_lines() {
        for lines in [
            &["{", "umount: /x: target is busy"][..],
            &["{", "a", "}"],
            &["[{", "}"],
        ] {
            let count = if lines[0] == "[{" { 1 } else { lines.len() };
            assert_eq!(texts(lines).len(), count, "{lines:?}");
        }
        let many = vec!["{"; 9000];
        assert_eq!(texts(&many).len(), 9000);
    }

    #[test]
    fn entries_of_the_journal() {
        let lines = [
            "__CURSOR=s=1",
            "__REALTIME_TIMESTAMP=1738928260033235",
            "MESSAGE=one",
            "_COMM=umount",
            "",
            "__REALTIME_TIMESTAMP=1738928260033236",
            "MESSAGE",
            "SYSLOG_IDENTIFIER=containerd",
        ];
        let found = entries(&lines);
        assert_eq!(texts(&lines), ["one", "bytes\nof it"]);
        assert_eq!((found[0].line, found[1].line), (3, 7));
        let sources: Vec<_> = found
            .iter()
            .map(|entry| entry.journal.clone().unwrap().1.unwrap())
            .collect();
        assert_eq!(sources, ["umount", "containerd"]);
    }
}
