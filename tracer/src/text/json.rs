//! JSON that is safe on a terminal: invisible characters that serde leaves alone are written as escapes, which mean the
//! same to a JSON parser.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::escape::is_deceptive;

/// Writes a value as one line, without its end.
pub fn to_writer(to: impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(to, Visible(CompactFormatter)))
}

struct Visible(CompactFormatter);

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, char)) = rest
            .char_indices()
            .find(|(_, char)| char.is_control() || is_deceptive(*char))
        {
            let (before, from) = rest.split_at(at);
            self.0.write_string_fragment(to, before)?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = &from[char.len_utf8()..];
        }
        self.0.write_string_fragment(to, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_deceptive, to_writer};

    fn json(text: &str) -> String {
        let mut bytes = Vec::new();
        to_writer(&mut bytes, &[text]).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_cannot_be_seen_is_an_escape() {
        assert_eq!(json("a\"b\n日本"), "[\"a\\\"b\\n日本\"]");
        assert_eq!(
            json("\u{9b}31m\u{7f}\u{202e}\u{e0041}"),
            "[\"\\u009b31m\\u007f\\u202e\\udb40\\udc41\"]"
        );
    }

    proptest! {
        #[test]
        fn it_means_the_same(text in any::<String>(), hidden in "[\\u{80}-\\u{9f}\\u{200b}-\\u{202e}\\u{e0000}-\\u{e0fff}a]{0,8}") {
            let text = text + &hidden;
            let json = json(&text);
            prop_assert!(!json.chars().any(|char| char.is_control() || is_deceptive(char)), "{json:?}");
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), vec![text]);
        }
    }
}
