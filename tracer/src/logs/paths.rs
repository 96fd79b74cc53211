//! Where paths stand in a text, and how long they are.
//!
//! A path may have spaces, colons and brackets in it, and whatever a log puts between it and the error looks the same. So
//! there are two answers: the best one by grammar, and everything that may belong to it, of which the mounts that there
//! are choose the longest prefix.

use super::text::is_word;

/// Bytes of a path at the most (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Prefixes of one path that are offered.
const PREFIXES_MAX: usize = 64;

/// A path in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    /// Where it ends by grammar.
    pub(super) end: usize,
    /// Nothing from here on can be part of it.
    pub(super) limit: usize,
}

impl Span {
    pub(super) fn path<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn whole<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.start..self.limit).unwrap_or_default()
    }
}

/// All paths of a text, as far as `most`.
pub(super) fn spans(text: &[u8], most: usize) -> Vec<Span> {
    let mut found = Vec::new();
    let mut at = 0;
    while found.len() < most
        && let Some(slash) = memchr(b'/', text, at)
    {
        at = slash + 1;
        if !begins(text, slash) {
            continue;
        }
        let span = span(text, slash);
        if span.end > slash {
            at = span.end.max(slash + 1);
            found.push(span);
        }
    }
    found
}

fn memchr(byte: u8, text: &[u8], from: usize) -> Option<usize> {
    let found = text.get(from..)?.iter().position(|one| *one == byte)?;
    Some(found + from)
}

/// Whether a path begins at this slash: not in a word, an URL, a fraction or a date.
fn begins(text: &[u8], slash: usize) -> bool {
    let before = slash.checked_sub(1).and_then(|at| text.get(at));
    let next = text.get(slash + 1).copied();
    let starts = match before {
        None => true,
        // After a scheme there are two slashes.
        Some(b':') => next != Some(b'/'),
        Some(b'\\') => false,
        // The last byte of a typographic quote.
        Some(0x98 | 0x9c) => text
            .get(..slash)
            .is_some_and(|before| quote_before(before).is_some()),
        // After `\n` and `\t` as they are written.
        Some(b'n' | b't') => slash >= 2 && text.get(slash - 2) == Some(&b'\\'),
        Some(byte) => b" \t\n\r=([{<>\"'`|,;".contains(byte),
    };
    // A slash by itself is the root, or just a slash: what is before it decides that later.
    starts && !matches!(next, Some(b'\\' | b'*' | b'>'))
}

/// The quote that a text ends with: how long it is, and what closes it.
fn quote_before(text: &[u8]) -> Option<&'static [u8]> {
    const QUOTES: [(&[u8], &[u8]); 5] = [
        (b"\"", b"\""),
        (b"'", b"'"),
        (b"`", b"`"),
        ("\u{2018}".as_bytes(), "\u{2019}".as_bytes()),
        ("\u{201c}".as_bytes(), "\u{201d}".as_bytes()),
    ];
    QUOTES
        .iter()
        .find(|(open, _)| text.ends_with(open))
        .map(|(_, close)| *close)
}

fn span(text: &[u8], start: usize) -> Span {
    let rest = &text[start..text.len().min(start + PATH_MAX)];
    if let Some(close) = quote_before(&text[..start])
        && let Some(length) = position(rest, close)
    {
        // As it is written inside of another text in quotes.
        let escapes = rest[..length]
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count();
        let end = start + length - escapes;
        return Span {
            start,
            end,
            limit: end,
        };
    }
    let length = rest
        .iter()
        .enumerate()
        .position(|(index, byte)| match byte {
            b'\n' | b'\r' | b'\t' | b'\0' => true,
            b'"' => rest
                .get(index + 1)
                .is_none_or(|next| !next.is_ascii_alphanumeric()),
            b'\\' => matches!(rest.get(index + 1), Some(b'n' | b't' | b'r' | b'"')),
            _ => false,
        })
        .unwrap_or(rest.len());
    let whole = &rest[..length];
    Span {
        start,
        end: start + by_grammar(whole),
        limit: start + length,
    }
}

fn position(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// Words that follow a path more often than they are part of it.
const AFTER: [&[u8]; 58] = [
    b"with",
    b"failed",
    b"fails",
    b"failure",
    b"error",
    b"err",
    b"because",
    b"is",
    b"was",
    b"are",
    b"from",
    b"on",
    b"for",
    b"to",
    b"as",
    b"at",
    b"in",
    b"into",
    b"of",
    b"and",
    b"or",
    b"due",
    b"after",
    b"before",
    b"still",
    b"already",
    b"not",
    b"cannot",
    b"could",
    b"can't",
    b"can",
    b"returned",
    b"busy",
    b"device",
    b"during",
    b"while",
    b"via",
    b"by",
    b"has",
    b"had",
    b"will",
    b"retry",
    b"retrying",
    b"exit",
    b"status",
    b"type",
    b"does",
    b"did",
    b"but",
    b"may",
    b"since",
    b"when",
    b"target",
    b"resource",
    b"reason",
    b"using",
    b"again",
    b"skipping",
];

/// How long a path without quotes is: up to what is no part of a path, or the first space of which nothing says that it
/// is one.
fn by_grammar(text: &[u8]) -> usize {
    let mut depth = Vec::new();
    let mut first_space = None;
    let mut colon = false;
    let mut end = text.len();
    for (index, byte) in text.iter().enumerate() {
        let rest = text.get(index + 1..).unwrap_or_default();
        let at_end = rest.is_empty() || rest.first() == Some(&b' ');
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth.push(*byte),
            b')' | b']' | b'}' | b'>' if depth.pop().is_none() => {
                end = index;
                break;
            }
            b'\'' | b'`' if at_end || rest.starts_with(b":") || rest.starts_with(b",") => {
                end = index;
                break;
            }
            b':' if at_end => {
                (end, colon) = (index, true);
                break;
            }
            b',' | b';' | b'|' if at_end || rest.first() == Some(&b'/') => {
                end = index;
                break;
            }
            b' ' if follows(rest) => {
                end = index;
                break;
            }
            b' ' => first_space = first_space.or(Some(index)),
            _ => {}
        }
    }
    // Before a colon a path is written with its spaces.
    if let Some(space) = first_space.filter(|_| !colon) {
        end = space;
    }
    let path = &text[..end];
    let trimmed = path
        .iter()
        .rposition(|byte| !b" ,;!?".contains(byte))
        .map_or(0, |last| last + 1);
    // The full stop of a sentence.
    let stop = !colon && trimmed > 2 && path[..trimmed].ends_with(b".") && !path[..trimmed].ends_with(b"..");
    trimmed - usize::from(stop)
}

/// Whether after a space there is something else than more of a path.
fn follows(rest: &[u8]) -> bool {
    match rest {
        []
        | [b'-' | b'=', b'>', ..]
        | [b'-', b' ', ..]
        | [b'/' | b'(' | b'[' | b'{' | b'<' | b'\'' | b'"' | b'|' | b'#', ..] => true,
        _ => {
            let word = rest
                .split(|byte| b" :.,".contains(byte))
                .next()
                .unwrap_or_default();
            let word = word
                .get(..word.len().min(16))
                .unwrap_or_default()
                .to_ascii_lowercase();
            let key = rest.iter().take_while(|byte| is_word(**byte)).count();
            let named = match rest.get(key..) {
                Some([b'=', ..]) => true,
                Some([b':', next, ..]) => *next != b' ',
                _ => false,
            };
            AFTER.contains(&word.as_slice()) || key > 0 && named
        }
    }
}

/// All that a path with what follows it can be, the longest first.
pub(super) fn prefixes(whole: &[u8]) -> impl Iterator<Item = &[u8]> {
    // A path goes on after a slash, a letter, a digit, and whatever else is common in names.
    let ends = move |end: &usize| {
        let next = whole.get(*end);
        next.is_none_or(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"/_-~@%+".contains(byte))
            && *end > 1
            && whole.get(end - 1) != Some(&b' ')
    };
    (2..=whole.len())
        .rev()
        .filter(ends)
        .take(PREFIXES_MAX)
        .filter_map(|end| whole.get(..end))
}

/// A place in a program, not on a file system: `/build/src/conf.c:209`, a socket, a command.
pub(super) fn is_code(path: &[u8], after: &[u8]) -> bool {
    const ENDINGS: [&[u8]; 13] = [
        b".c", b".h", b".cc", b".cpp", b".go", b".rs", b".py", b".js", b".ts", b".java", b".sock", b".so",
        b".rb",
    ];
    const PROGRAMS: [&[u8]; 7] = [
        b"/usr/bin/",
        b"/usr/sbin/",
        b"/bin/",
        b"/sbin/",
        b"/usr/local/bin/",
        b"/usr/lib/python",
        b"/proc/self/",
    ];
    let bare = path
        .iter()
        .rposition(|byte| !byte.is_ascii_digit() && *byte != b':')
        .map_or(path, |last| &path[..=last]);
    let line = bare.len() < path.len() || after.first() == Some(&b':');
    ENDINGS.iter().any(|ending| bare.ends_with(ending)) && (line || bare.ends_with(b".sock"))
        || path.ends_with(b".py")
        || PROGRAMS.iter().any(|program| path.starts_with(program))
}

#[cfg(test)]
mod tests {
    use super::{is_code, prefixes, spans};

    fn paths(text: &str) -> Vec<String> {
        let found = spans(text.as_bytes(), 64);
        let paths = found.iter().map(|span| span.path(text.as_bytes()));
        paths
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect()
    }

    #[test]
    fn what_stands_after_a_path_is_not_part_of_it() {
        for text in [
            "unmount /a/b: device busy",
            "unmount /a/b - device busy",
            "unmount /a/b failed: busy",
            "unmount /a/b with error busy",
            "unmount /a/b, EBUSY",
            "unmount /a/b => busy",
            "unmount /a/b -> busy",
            "unmount args: [/a/b]: busy",
            "unmount(/a/b): busy",
            "unmount '/a/b': busy",
            "unmount \"/a/b\" is busy",
            "unmount \u{2018}/a/b\u{2019}: busy",
            "unmount \\\"/a/b\\\": busy",
            "unmount /a/b\\nOutput: busy",
            "unmount overlay:/a/b (via fuse): busy",
            "unmount /a/b; busy",
            "unmount /a/b err=busy",
            "unmount path=/a/b name=x busy",
            "could not unmount /a/b.",
            "unmount /a/b rootfs busy",
            "unmount </a/b>: busy",
            "device /a/b | busy",
        ] {
            assert_eq!(paths(text), ["/a/b"], "{text}");
        }
    }

    #[test]
    fn a_path_with_spaces_and_brackets() {
        assert_eq!(paths("umount: /mnt/x y: target is busy"), ["/mnt/x y"]);
        let vsphere = "/var/lib/kubelet/csi.vsphere.vmware.com-[vsanDatastore] 74d2~vm.vmdk/mount";
        assert_eq!(paths(&format!("umount: {vsphere}: target is busy")), [vsphere]);
        assert_eq!(paths("map[cpu:/sys/a memory:/sys/b]"), ["/sys/a", "/sys/b"]);
        assert_eq!(paths("rename '/a/.~b' -> '/a/b'"), ["/a/.~b", "/a/b"]);
        assert_eq!(paths("rename /a /a.deleting~3: busy"), ["/a", "/a.deleting~3"]);
    }

    #[test]
    fn what_is_no_path() {
        for text in [
            "https://x.y/z",
            "unix:///run/x",
            "and/or",
            "1/2",
            "2023/01/02",
            "a \\/b",
            "I/O error",
        ] {
            assert!(paths(text).is_empty(), "{text}: {:?}", paths(text));
        }
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let all: Vec<_> = prefixes(b"/a b: c").collect();
        assert_eq!(all, [&b"/a b: c"[..], b"/a b:", b"/a b", b"/a"]);
        assert_eq!(prefixes(&[b' '; 9000]).count(), 0);
        assert!(prefixes("/a:".repeat(9000).as_bytes()).count() <= 64);
    }

    #[test]
    fn places_in_programs() {
        assert!(is_code(b"/build/lxc/src/conf.c:209", b""));
        assert!(is_code(b"/run/x.sock", b""));
        assert!(is_code(b"/usr/lib/python3/shutil.py", b"\", line 3"));
        assert!(!is_code(b"/mnt/project.c", b": target is busy".get(1..).unwrap()));
        assert!(!is_code(b"/mnt/x", b""));
    }
}
