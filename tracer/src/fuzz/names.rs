//! Names that somebody else chose, on their way to a terminal and into a shell.

use crate::{identity, text};

/// Any bytes as a name, and as a path.
pub(super) fn name(bytes: &[u8]) {
    super::shown::shown(&text::escape(bytes));
    super::shown::shown(&text::said(bytes));
    let lossy = String::from_utf8_lossy(bytes);
    super::shown::shown(&text::printable(&lossy).replace('\\', ""));
    let _ = text::is_kubernetes_name(&lossy);
    let _ = identity::mount_claim(bytes);
    let command = text::Command::new(&["umount"]).name(bytes);
    if let Some(command) = command {
        let line = command.to_string();
        super::shown::shown(&line);
        assert_eq!(
            words(&line),
            Some(vec![b"umount".to_vec(), bytes.to_vec()]),
            "{line}"
        );
    }
}

/// The words of a line, as every shell has them: what is outside of single quotes is a plain character or a quote after a
/// backslash. `None` where the line does something else.
fn words(line: &str) -> Option<Vec<Vec<u8>>> {
    let mut words = vec![Vec::new()];
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        let word = words.last_mut()?;
        match byte {
            b'\'' => loop {
                match bytes.next()? {
                    b'\'' => break,
                    byte => word.push(byte),
                }
            },
            b'\\' => word.push(bytes.next().filter(|byte| *byte == b'\'')?),
            b' ' => words.push(Vec::new()),
            byte if byte.is_ascii_alphanumeric() || b"-_./+@=%,:".contains(&byte) => word.push(byte),
            _ => return None,
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::{name, words};

    #[test]
    fn words_of_a_line() {
        assert_eq!(
            words("a 'b c'\\''d'"),
            Some(vec![b"a".to_vec(), b"b c'd".to_vec()])
        );
        for line in ["a;b", "$a", "a\nb", "'a", "a\\b"] {
            assert_eq!(words(line), None, "{line}");
        }
    }

    #[test]
    fn hostile_names() {
        for bytes in [
            &b""[..],
            b"-rf",
            b"a b",
            b"'; reboot; '",
            b"\x1b[2J",
            b"\xff\n",
            "\u{202e}".as_bytes(),
        ] {
            name(bytes);
        }
    }
}
