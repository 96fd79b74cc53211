//! Commands that people paste, as root, into any shell.
//!
//! A command is made from its words, never from text, and quoted in one place: with POSIX single quotes, which mean the
//! same in sh, bash, dash, busybox and zsh, and in the `sh -c` of a program that reads the JSON. A foreign name is
//! either one exact word, or there is no command: a name that a terminal, an editor or a clipboard could change on the
//! way is in no command at all.

use std::fmt;

use serde::{Serialize, Serializer};

use super::escape::is_deceptive;

/// A terminal hands 4,095 bytes of a line to a shell that has no line editor, and drops the rest.
const BYTES_MAX: usize = 4_000;

/// A program and its arguments. As text (and in JSON) it is a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command(Vec<String>);

impl Command {
    /// Words of ebusy's own.
    #[must_use]
    pub fn new(words: &[&'static str]) -> Self {
        Self(Vec::new()).words(words)
    }

    /// More words of ebusy's own.
    #[must_use]
    pub fn words(mut self, words: &[&'static str]) -> Self {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// A number: of a process, a namespace, a limit.
    #[must_use]
    pub fn number(mut self, number: impl Into<u64>) -> Self {
        self.0.push(number.into().to_string());
        self
    }

    /// Numbers, each as an argument.
    #[must_use]
    pub fn numbers(self, numbers: &[u32]) -> Self {
        numbers
            .iter()
            .fold(self, |command, number| command.number(*number))
    }

    /// A setting: `name=number`.
    #[must_use]
    pub fn assign(mut self, name: &'static str, number: u64) -> Self {
        self.0.push(format!("{name}={number}"));
        self
    }

    /// A foreign name as a word of its own: never an option. `None` if it cannot be typed safely.
    #[must_use]
    pub fn name(self, name: &[u8]) -> Option<Self> {
        let option = name.is_empty() || name.starts_with(b"-");
        if option { None } else { self.joined("", name) }
    }

    /// An argument of ebusy's user, which may be an option.
    #[must_use]
    pub fn argument(self, argument: &[u8]) -> Option<Self> {
        self.joined("", argument)
    }

    /// A foreign name that has to be an absolute path.
    #[must_use]
    pub fn path(self, path: &[u8]) -> Option<Self> {
        if path.starts_with(b"/") {
            self.name(path)
        } else {
            None
        }
    }

    /// A word that begins with ebusy's own text, as in `--pid=PATH`.
    #[must_use]
    pub fn joined(mut self, own: &'static str, name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| name.chars().all(is_typable))?;
        self.0.push(format!("{own}{name}"));
        (self.to_string().len() <= BYTES_MAX).then_some(self)
    }

    /// The program and its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            if is_plain(word) {
                write!(f, "{blank}{word}")?;
            } else {
                write!(f, "{blank}'{}'", word.replace('\'', "'\\''"))?;
            }
        }
        Ok(())
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A character that is the same after it was shown, copied and pasted. Browsers turn blanks of other kinds into the
/// usual one, and U+FFFD stands for bytes that are lost.
fn is_typable(char: char) -> bool {
    let blank = char.is_whitespace() && char != ' ';
    !(char.is_control() || is_deceptive(char) || blank || char == char::REPLACEMENT_CHARACTER)
}

/// A word that means itself without quotes, in every shell. zsh replaces `=ls` by the path of that program.
fn is_plain(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&byte);
    !word.is_empty() && !word.starts_with('=') && word.bytes().all(plain)
}

/// A name that Kubernetes allows: no other name can be in a command for it.
#[must_use]
pub fn is_kubernetes_name(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// A name of a container, image or namespace of a runtime, or of a unit: never an option, never more than a word.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
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
    use super::{BYTES_MAX, Command, is_kubernetes_name, is_plain_name};

    fn umount(path: &[u8]) -> Option<String> {
        Some(Command::new(&["umount"]).path(path)?.to_string())
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_read_more_than_a_word() {
        for (path, text) in [
            ("/var/log/app.log", "umount /var/log/app.log"),
            ("/a  b", "umount '/a  b'"),
            ("/it's;$(reboot)", "umount '/it'\\''s;$(reboot)'"),
            ("/a\\nb!~*", "umount '/a\\nb!~*'"),
            ("/日本", "umount '/日本'"),
        ] {
            assert_eq!(umount(path.as_bytes()).as_deref(), Some(text));
        }
        let equals = Command::new(&["echo"])
            .name(b"=ls")
            .map(|command| command.to_string());
        assert_eq!(equals.as_deref(), Some("echo '=ls'"));
        let pid = Command::new(&["nsenter"]).joined("--pid=", b"/proc/7/ns/pid ");
        assert_eq!(pid.unwrap().to_string(), "nsenter '--pid=/proc/7/ns/pid '");
        assert_eq!(Command::new(&["kill", ""]).number(7_u32).to_string(), "kill '' 7");
    }

    #[test]
    fn what_cannot_be_typed_gives_no_command() {
        for path in [
            &b"/a\nb"[..],
            b"/\x1b[2J",
            b"/\xff",
            b"/\x7f",
            "/\u{9b}31m".as_bytes(),
            "/\u{202e}x".as_bytes(),
            "/\u{200b}".as_bytes(),
            "/\u{a0}".as_bytes(),
            "/\u{fffd}".as_bytes(),
            b"relative",
            b"-l",
            b"",
        ] {
            assert_eq!(umount(path), None, "{path:?}");
        }
        assert_eq!(Command::new(&["losetup", "-d"]).name(b"-D"), None);
        let long = format!("/{}", "'".repeat(BYTES_MAX / 4));
        assert_eq!(umount(long.as_bytes()), None);
    }

    #[test]
    fn names() {
        assert!(is_kubernetes_name("web-7d9c5b8f6-qx2vl") && is_kubernetes_name("a.b"));
        for name in ["", "--all", "a b", "a;b", "A", "a/b", "a-", "é"] {
            assert!(!is_kubernetes_name(name), "{name}");
        }
        assert!(is_plain_name("getty@tty1.service") && !is_plain_name("-x") && !is_plain_name("a b"));
    }
}

#[cfg(test)]
pub(crate) mod pasted;
