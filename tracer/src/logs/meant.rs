//! What of a line is known to whoever looks: one of the readings of its path, or another path that it names.

use super::{LogLine, paths::prefixes};
use crate::model::Text;

/// Readings of all paths of one line.
const READINGS_MAX: usize = 512;

/// Something of a line that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// As it is known.
    pub path: Vec<u8>,
    /// What it is known as.
    pub what: T,
    /// Whether it is what the line is about, and not only named beside it.
    pub is_target: bool,
}

impl LogLine {
    /// The first of all readings that is known: the longest prefix of what may belong to the path, then what the grammar
    /// says, then the other paths that the line names.
    pub fn known<T>(&self, mut known: impl FnMut(&[u8]) -> Option<T>) -> Option<Known<T>> {
        let target = self.target.as_ref().map(Text::as_bytes);
        let (own, others): (Vec<_>, Vec<_>) = self
            .paths
            .iter()
            .map(Text::as_bytes)
            .partition(|whole| target.is_some_and(|target| shares_beginning(whole, target)));
        // Prefixes of the target, the target, prefixes of the others.
        let all = own
            .into_iter()
            .flat_map(prefixes)
            .chain(target)
            .map(|reading| (reading, true))
            .chain(
                others
                    .into_iter()
                    .flat_map(prefixes)
                    .map(|reading| (reading, false)),
            );
        all.take(READINGS_MAX).find_map(|(reading, is_target)| {
            let path = plain(reading);
            known(&path).map(|what| Known {
                path,
                what,
                is_target,
            })
        })
    }
}

/// Whether a text begins like the target, as it does where that is one of its prefixes.
fn shares_beginning(whole: &[u8], target: &[u8]) -> bool {
    let common = whole
        .iter()
        .zip(target)
        .take_while(|(one, other)| one == other)
        .count();
    common >= target.len().min(whole.len()) || whole.get(common) == Some(&0x1b)
}

/// As the kernel writes a path: without double slashes, dots and escapes, and without the link that `/var/run` is
/// wherever there are containers.
#[must_use]
pub fn plain(path: &[u8]) -> Vec<u8> {
    if path.first() != Some(&b'/') {
        return path.to_vec();
    }
    let path = unescaped(path);
    let mut plain = Vec::with_capacity(path.len());
    for part in path
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
    {
        plain.push(b'/');
        plain.extend_from_slice(part);
    }
    // A network file system is called so.
    if path.starts_with(b"//") && path.get(2).is_some_and(|byte| *byte != b'/') {
        return path;
    }
    match plain.strip_prefix(b"/var") {
        _ if plain.is_empty() => b"/".to_vec(),
        Some(rest) if rest.starts_with(b"/run/") => rest.to_vec(),
        _ => plain,
    }
}

/// With the octal escapes of mountinfo read: `\040`.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = match (first, tail) {
            (b'\\', [b'0'..=b'1', b'0'..=b'7', b'0'..=b'7', ..]) => std::str::from_utf8(&tail[..3]).ok(),
            _ => None,
        };
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => out.push(*first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::plain;
    use crate::logs::samples;

    fn known(log: &str, mounts: &[&str]) -> Option<(String, bool)> {
        let found = samples::one(log).known(|path| mounts.iter().find(|mount| mount.as_bytes() == path))?;
        Some(((*found.what).to_owned(), found.is_target))
    }

    #[test]
    fn the_mounts_that_there_are_say_where_a_path_ends() {
        let line = "umount: /mnt/a b is busy: target is busy";
        assert_eq!(
            known(line, &["/mnt", "/mnt/a", "/mnt/a b"]),
            Some(("/mnt/a b".into(), true))
        );
        assert_eq!(known(line, &["/mnt", "/mnt/a"]), Some(("/mnt/a".into(), true)));
        // A mount that it is in is not it.
        assert_eq!(known(line, &["/mnt", "/"]), None);
        assert_eq!(
            known("umount: /mnt/\x1b[31mx: target is busy", &["/mnt/\x1b[31mx"]),
            Some(("/mnt/\x1b[31mx".into(), true))
        );
    }

    #[test]
    fn another_path_of_the_line_is_the_last_choice() {
        let line =
            "level=error msg=\"unmount failed\" error=\"device or resource busy\" path=/gone dev=/mnt/x";
        assert_eq!(known(line, &["/gone", "/mnt/x"]), Some(("/gone".into(), true)));
        assert_eq!(known(line, &["/mnt/x"]), Some(("/mnt/x".into(), false)));
    }

    #[test]
    fn paths_as_the_kernel_has_them() {
        for (path, expected) in [
            ("/var/run/netns/x/", "/run/netns/x"),
            ("/sys//fs/./cgroup", "/sys/fs/cgroup"),
            (r"/mnt/a\040b", "/mnt/a b"),
            ("//server/share", "//server/share"),
            ("/", "/"),
            ("/var/runner", "/var/runner"),
            ("tank/data", "tank/data"),
        ] {
            assert_eq!(plain(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
