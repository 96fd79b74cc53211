//! The text of files under /proc/PID, as pure functions.

/// The used fields of /proc/PID/stat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    /// Command name; unescaped, may hold any byte.
    pub(super) comm: Vec<u8>,
    /// State letter.
    pub(super) state: u8,
    /// Parent process id.
    pub(super) parent: u32,
    /// Number of threads; a dead leader counts as one.
    pub(super) threads: u64,
    /// Start, in clock ticks since boot.
    pub(super) start_ticks: u64,
}

impl Stat {
    /// No thread of it runs or holds anything any more: it only waits to be reaped.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Parses /proc/PID/stat. The name is in parentheses and may hold parentheses, spaces and newlines itself: the last
/// `)` of the file ends it, because only numbers follow.
pub(super) fn stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // Fields 3 (state) and on.
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let threads = fields.nth(20 - 5)?.parse().ok()?;
    let start_ticks = fields.nth(22 - 21)?.parse().ok()?;
    Some(Stat {
        comm,
        state,
        parent,
        threads,
        start_ticks,
    })
}

/// The real user id in /proc/PID/status.
pub(super) fn real_uid(status: &[u8]) -> Option<u32> {
    // The name comes first and is escaped by the kernel, so that no line of it can pose as another.
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The arguments in /proc/PID/cmdline.
pub(super) fn cmdline(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        Vec::new()
    } else {
        text.split(|byte| *byte == 0).collect()
    }
}

/// The contents of /proc/PID/comm without the newline that the kernel puts behind it.
pub(super) fn comm(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// The number in the text of a namespace link, such as `mnt:[4026531841]`.
pub(super) fn namespace(link: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(link).ok()?;
    let (_, rest) = text.split_once(":[")?;
    rest.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{cmdline, comm, namespace, real_uid, stat};

    const STAT: &[u8] = b"4242 (node-agent) S 1 4242 4242 0 -1 4194560 1513 80341 0 12 3 5 110 62 20 0 7 0 904512 \
        24358912 1520 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn fields_of_stat() {
        let stat = stat(STAT).unwrap();
        assert_eq!(stat.comm, b"node-agent");
        assert_eq!(
            (stat.state, stat.parent, stat.threads, stat.start_ticks),
            (b'S', 1, 7, 904_512)
        );
        assert!(!stat.is_dead());
    }

    #[test]
    fn a_name_that_imitates_the_rest_of_the_line() {
        let text = b"7 (a) S 99 (b\n) R 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 55 0 0\n";
        let stat = stat(text).unwrap();
        assert_eq!(stat.comm, b"a) S 99 (b\n");
        assert_eq!((stat.parent, stat.start_ticks), (3, 55));
    }

    #[test]
    fn only_a_leader_without_threads_is_dead() {
        let dead = b"7 (a) Z 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 55 0 0\n";
        assert!(stat(dead).unwrap().is_dead());
        let leader = b"7 (a) Z 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 55 0 0\n";
        assert!(!stat(leader).unwrap().is_dead());
    }

    #[test]
    fn the_real_uid_is_the_first() {
        let status = b"Name:\tx\\nUid:\t7\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n";
        assert_eq!(real_uid(status), Some(1000));
        assert_eq!(real_uid(b"Name:\tx\n"), None);
    }

    #[test]
    fn arguments_may_be_empty_or_unterminated() {
        assert_eq!(cmdline(b"sh\0-c\0\0"), [&b"sh"[..], b"-c", b""]);
        assert_eq!(cmdline(b"nginx: worker"), [&b"nginx: worker"[..]]);
        assert!(cmdline(b"").is_empty());
    }

    #[test]
    fn names_and_namespaces() {
        assert_eq!(comm(b"a\nb\n"), b"a\nb");
        assert_eq!(namespace(b"mnt:[4026531841]"), Some(4_026_531_841));
        assert_eq!(namespace(b"mnt:[x]"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (stat(&text), real_uid(&text), namespace(&text));
            let _ = (cmdline(&text), comm(&text));
        }

        #[test]
        fn any_name_comes_back(name in proptest::collection::vec(1_u8.., 0..16)) {
            let mut text = b"7 (".to_vec();
            text.extend(&name);
            text.extend(b") S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 55 0 0\n");
            prop_assert_eq!(stat(&text).unwrap().comm, name);
        }
    }
}
