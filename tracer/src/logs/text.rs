//! Text of logs as it was before it was written: without colours, without quotes and escapes.

use std::borrow::Cow;

/// What begins a sequence that sets a colour.
pub(super) const ESCAPE: u8 = 0x1b;

/// A byte of the name of a field.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

/// Without what sets colours on a terminal and whatever else begins with an escape: CSI and OSC of ECMA-48.
pub(super) fn without_colours(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&ESCAPE) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != ESCAPE {
            out.push(*first);
            continue;
        }
        rest = match tail {
            [b'[', sequence @ ..] => {
                let length = sequence.iter().position(|byte| !(0x20..0x40).contains(byte));
                length.map_or(&[][..], |length| &sequence[length + 1..])
            }
            [b']', sequence @ ..] => {
                let length = sequence.iter().position(|byte| matches!(*byte, 7 | ESCAPE));
                let rest = length.map_or(&[][..], |length| &sequence[length + 1..]);
                // It ends with BEL, or with ESC and a backslash.
                rest.strip_prefix(b"\\").unwrap_or(rest)
            }
            [0x40..=0x7e, sequence @ ..] => sequence,
            other => other,
        };
    }
    Cow::Owned(out)
}

/// The inside of the quoted string that a place lies in: `"..."` after `=`, `:`, a space or the beginning.
pub(super) fn quoted_around(message: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut open = None;
    let mut index = 0;
    while index < message.len() {
        match (message[index], open) {
            (b'\\', Some(_)) => index += 1,
            (b'"', None) if index == 0 || b"= :([{,".contains(&message[index - 1]) => {
                if index > at {
                    return None;
                }
                open = Some(index + 1);
            }
            (b'"', Some(start)) => {
                if start <= at && at < index {
                    return Some((start, index));
                }
                open = None;
            }
            _ => {}
        }
        index += 1;
    }
    // A line that was cut has no end of the quotes.
    open.filter(|start| *start <= at)
        .map(|start| (start, message.len()))
}

/// Without the escapes of Go's `%q` and of JSON.
pub(super) fn unquoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let hex = |digits: usize| {
            let digits = std::str::from_utf8(tail.get(1..=digits)?).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        let (byte, used) = match tail.first() {
            Some(b'n') => (Some(b'\n'), 1),
            Some(b't') => (Some(b'\t'), 1),
            Some(b'r') => (Some(b'\r'), 1),
            Some(b'x') if hex(2).is_some() => (hex(2).and_then(|value| u8::try_from(value).ok()), 3),
            Some(b'u') if hex(4).is_some() => {
                let char = hex(4)
                    .and_then(char::from_u32)
                    .unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend(char.to_string().bytes());
                (None, 5)
            }
            Some(byte) => (Some(*byte), 1),
            None => (Some(b'\\'), 0),
        };
        out.extend(byte);
        rest = tail.get(used..).unwrap_or_default();
    }
    out
}

/// A value in quotes, so that [`unquoted`] gives it back.
pub(super) fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for char in value.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '"' | '\\' => out.extend(['\\', char]),
            _ => out.push(char),
        }
    }
    out.push('"');
    out
}

/// The path of a mount unit of systemd, by its name without `.mount`: `var-lib-x\x2dy` (systemd.unit(5)).
pub(super) fn of_unit_name(name: &[u8]) -> Option<Vec<u8>> {
    if name.is_empty() || name.starts_with(b"/") {
        return None;
    }
    if name == b"-" {
        return Some(b"/".to_vec());
    }
    let mut path = vec![b'/'];
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = tail;
        path.push(match (first, tail) {
            (b'-', _) => b'/',
            (b'\\', [b'x', high, low, after @ ..]) => {
                rest = after;
                u8::from_str_radix(std::str::from_utf8(&[*high, *low]).ok()?, 16).ok()?
            }
            (byte, _) if is_word(*byte) || b":_\\@".contains(byte) => *byte,
            _ => return None,
        });
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::{of_unit_name, quoted, unquoted, without_colours};

    #[test]
    fn colours_are_left_out() {
        for text in [
            "\x1b[31;1mumount\x1b[0m: /x",
            "\x1b]8;;file:///x\x07umount\x1b]8;;\x1b\\: /x",
            "um\x1b[Kount: /x",
            "umount: /x\x1b[",
            "umount: /x\x1b",
        ] {
            assert_eq!(&*without_colours(text.as_bytes()), b"umount: /x", "{text:?}");
        }
    }

    #[test]
    fn quotes_and_back() {
        for text in ["a", "a \"b\" \\ c\nd", "/x\u{e9}"] {
            let quoted = quoted(text);
            let inside = &quoted.as_bytes()[1..quoted.len() - 1];
            assert_eq!(unquoted(inside), text.as_bytes());
        }
    }

    #[test]
    fn units_have_the_names_of_their_paths() {
        let of = |name: &str| of_unit_name(name.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        assert_eq!(of("var-log").as_deref(), Some("/var/log"));
        assert_eq!(of(r"mnt-a\x2db\x20c").as_deref(), Some("/mnt/a-b c"));
        assert_eq!(of("-").as_deref(), Some("/"));
        assert_eq!((of(""), of("a b"), of(r"a\xzz")), (None, None, None));
    }
}
