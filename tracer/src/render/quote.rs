//! Words of commands that are printed for people to run.

use super::sanitize::is_deceptive;

/// A word for a shell. Names and paths come from others: whatever they hold, the shell has to take it as one word,
/// and whoever reads it has to see what it is.
pub(super) fn shell(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).ok();
    let hidden = |char: char| char.is_control() || is_deceptive(char);
    match text {
        Some(text) if !text.is_empty() && text.bytes().all(is_plain) => text.to_owned(),
        Some(text) if !text.chars().any(hidden) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => ansi_c(bytes),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'/' | b'.' | b'_' | b'-' | b'+' | b',' | b':' | b'@' | b'%' | b'='
        )
}

/// `$'...'`, as bash, zsh, ksh and busybox understand it.
fn ansi_c(bytes: &[u8]) -> String {
    let mut word = String::from("$'");
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => word.extend(['\\', char::from(*byte)]),
            0x20..=0x7e => word.push(char::from(*byte)),
            // Three octal digits: `\x` would swallow digits that follow.
            _ => word.extend(['\\', octal(byte >> 6), octal(byte >> 3), octal(*byte)]),
        }
    }
    word.push('\'');
    word
}

/// The digit for the lowest three bits.
fn octal(bits: u8) -> char {
    char::from(b'0' + (bits & 7))
}

/// A name that Kubernetes allows: what is none cannot be put into a command for it.
pub(super) fn is_kubernetes_name(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// A name of a container, image or namespace of a runtime, or of a unit: never an option, never more than a word.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= 255
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b':'))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::{is_kubernetes_name, is_plain_name, shell};

    #[test]
    fn words() {
        for (bytes, word) in [
            (&b"/var/log/app.log"[..], "/var/log/app.log"),
            (b"/a b", "'/a b'"),
            (b"/it's;$(reboot)", "'/it'\\''s;$(reboot)'"),
            (b"/a\n\x1b7'\\", "$'/a\\012\\0337\\'\\\\'"),
            ("/\u{202e}x".as_bytes(), "$'/\\342\\200\\256x'"),
            (b"/\xff1", "$'/\\3771'"),
            (b"", "''"),
        ] {
            assert_eq!(shell(bytes), word);
        }
    }

    #[test]
    fn names() {
        assert!(is_kubernetes_name("web-7d9c5b8f6-qx2vl") && is_kubernetes_name("a.b"));
        for name in ["", "--all", "a b", "a;b", "A", "a/b", "a-", "é"] {
            assert!(!is_kubernetes_name(name), "{name}");
        }
        assert!(is_plain_name("getty@tty1.service") && !is_plain_name("-x") && !is_plain_name("a b"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_shell_reads_them_back(bytes in proptest::collection::vec(1_u8.., 0..40)) {
            let script = format!("printf %s {}", shell(&bytes));
            let output = Command::new("bash").env("LC_ALL", "C").args(["-c", &script]).output();
            if let Ok(output) = output {
                prop_assert_eq!(output.stdout, bytes);
            }
        }
    }
}
