//! Makes foreign names and paths safe to print.
//!
//! Somebody chose a file name, a command name or a label: it can move the cursor, hide text, or show it in another
//! order. Text output always has such characters escaped, to a file as well as to a terminal, because a file is read on
//! a terminal later.

/// Escapes everything that is not plainly visible: control characters, characters without width, those that change the
/// direction of text, bytes that are not UTF-8 (`\xNN`), and the backslash itself, so that nothing can be mistaken for
/// an escape.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    escaped(bytes, true)
}

/// Escapes text of our own that may quote others: its backslashes stay single.
#[must_use]
pub fn printable(text: &str) -> String {
    escaped(text.as_bytes(), false)
}

/// A foreign name for a sentence: unchanged if it is an ordinary word, else in quotes, so that nobody takes it for a
/// part of the sentence.
#[must_use]
pub fn said(name: &[u8]) -> String {
    let text = escape(name);
    if is_bare(&text) { text } else { said_always(&text) }
}

/// A foreign path for a sentence.
#[must_use]
pub fn said_path(path: &std::path::Path) -> String {
    said(path.as_os_str().as_encoded_bytes())
}

/// An escaped name in a shell's quotes, because people paste sentences by mistake.
pub(crate) fn said_always(escaped: &str) -> String {
    format!("'{}'", escaped.replace('\'', "'\\''"))
}

/// A word: letters, digits, and the separators in paths and names of units and containers.
pub(crate) fn is_bare(escaped: &str) -> bool {
    let own = |char: char| char.is_alphanumeric() || "-_./+@~=%,#:".contains(char);
    !escaped.is_empty()
        && (escaped == "-" || !escaped.starts_with('-'))
        && !escaped.ends_with([':', ','])
        && escaped.chars().all(own)
}

fn escaped(bytes: &[u8], backslash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' if backslash => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                _ if char.is_ascii_control() => push_hex(&mut out, char as u8),
                _ if char.is_control() || is_deceptive(char) => out.extend(char.escape_unicode()),
                _ => out.push(char),
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, *byte);
        }
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    out.push_str("\\x");
    for digit in [byte >> 4, byte & 15] {
        out.extend(char::from_digit(u32::from(digit), 16));
    }
}

/// Characters without a shape of their own, and those that reorder the ones around them.
pub(crate) fn is_deceptive(char: char) -> bool {
    matches!(char,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{escape, is_deceptive, printable, said};

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        for (bytes, text) in [
            (&b"/var/log/app.log"[..], "/var/log/app.log"),
            ("grüße 日本 é".as_bytes(), "grüße 日本 é"),
            (b"a\nb\r\t\x1b[31m\x07\x7f", "a\\nb\\r\\t\\x1b[31m\\x07\\x7f"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("a\u{202e}gpj.exe".as_bytes(), "a\\u{202e}gpj.exe"),
            (
                "\u{200b}\u{2066}\u{feff}\u{2028}".as_bytes(),
                "\\u{200b}\\u{2066}\\u{feff}\\u{2028}",
            ),
            (b"a\xff\xc3", "a\\xff\\xc3"),
            (b"a\\nb", "a\\\\nb"),
            (b"", ""),
        ] {
            assert_eq!(escape(bytes), text);
        }
        assert_eq!(printable("kill 1\\2\n"), "kill 1\\2\\n");
    }

    #[test]
    fn names_in_sentences_cannot_be_taken_for_more() {
        for (name, text) in [
            (&b"node-agent"[..], "node-agent"),
            (b"kworker/0:1", "kworker/0:1"),
            ("größe".as_bytes(), "größe"),
            (b"x: kill -9 1 (", "'x: kill -9 1 ('"),
            (b"x:", "'x:'"),
            (b"-rf", "'-rf'"),
            (b"$(id)", "'$(id)'"),
            (b"it's", "'it'\\''s'"),
            (b"\x1b[2J", "'\\x1b[2J'"),
            (b"", "''"),
        ] {
            assert_eq!(said(name), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_deceptive_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..200), text: String) {
            for text in [escape(&bytes), escape(text.as_bytes()), printable(&text)] {
                prop_assert!(!text.chars().any(|char| char.is_control() || is_deceptive(char)), "{text:?}");
            }
        }

        #[test]
        fn different_names_stay_different(left in proptest::collection::vec(any::<u8>(), 0..12),
            right in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(left == right, escape(&left) == escape(&right));
            prop_assert_eq!(left == right, said(&left) == said(&right));
        }
    }
}
