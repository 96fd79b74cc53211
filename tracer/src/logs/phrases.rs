//! The words by which a message says that something is busy, that an umount failed, and what was tried: each of them found
//! in one pass, in whatever case.

use std::{ops::Range, sync::LazyLock};

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::BusyError;

/// What is said of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// EBUSY, in the words of some program or library.
    Busy,
    /// A data set or a pool of ZFS, or a device.
    DeviceBusy,
    /// A layer of an overlay.
    OverlayInUse,
    /// The mounts that follow keep it mounted.
    References,
    /// It counts only where the message speaks of an umount or the like.
    Perhaps,
    /// An umount failed, it does not say with what.
    Failed,
    /// The exit status of umount(8), and of mount(8): it counts only where the message speaks of an umount.
    Status,
}

/// A phrase and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phrase {
    pub(super) at: Range<usize>,
    pub(super) says: Says,
}

const PHRASES: [(&str, Says); 59] = [
    // glibc, musl, libuv, and what people make of it.
    ("device or resource busy", Says::Busy),
    ("device or resource is busy", Says::Busy),
    ("resource busy or locked", Says::Busy),
    ("resource busy", Says::Busy),
    ("resource is busy", Says::Busy),
    ("ebusy", Says::Busy),
    ("errno 16", Says::Busy),
    ("errno=16", Says::Busy),
    ("errno: 16", Says::Busy),
    ("os error 16", Says::Busy),
    ("error -16", Says::Busy),
    // umount(8), mount(8), mount.nfs and busybox.
    ("target is busy", Says::Busy),
    ("target busy", Says::Busy),
    ("device is busy", Says::Busy),
    ("device busy", Says::Busy),
    ("filesystem is busy", Says::Busy),
    ("file system is busy", Says::Busy),
    ("already mounted or mount point busy", Says::Busy),
    ("already mounted or", Says::Busy),
    ("mount point busy", Says::Busy),
    ("mount point is busy", Says::Busy),
    ("mountpoint is busy", Says::Busy),
    ("mount is busy", Says::Busy),
    ("volume is busy", Says::Busy),
    // ZFS, LVM, cryptsetup, dmsetup.
    ("pool or dataset is busy", Says::DeviceBusy),
    ("dataset is busy", Says::DeviceBusy),
    ("pool is busy", Says::DeviceBusy),
    ("contains a filesystem in use", Says::DeviceBusy),
    ("is still in use", Says::Perhaps),
    ("is in-use as upperdir/workdir", Says::OverlayInUse),
    ("is in-use by another mount", Says::OverlayInUse),
    ("still mounted by other references", Says::References),
    (" is in use", Says::Perhaps),
    (" in use", Says::Perhaps),
    (" busy", Says::Perhaps),
    (": busy", Says::Perhaps),
    // No reason.
    ("failed to unmount", Says::Failed),
    // The missing space is in a log that was seen.
    ("failedto unmount", Says::Failed),
    ("failed unmounting", Says::Failed),
    ("failed to umount", Says::Failed),
    ("could not unmount", Says::Failed),
    ("could not umount", Says::Failed),
    ("couldn't unmount", Says::Failed),
    ("couldn't umount", Says::Failed),
    ("cannot unmount", Says::Failed),
    ("cannot umount", Says::Failed),
    ("can't unmount", Says::Failed),
    ("can't umount", Says::Failed),
    ("unable to unmount", Says::Failed),
    ("unable to umount", Says::Failed),
    ("error unmounting", Says::Failed),
    ("error umounting", Says::Failed),
    ("unmount failed", Says::Failed),
    ("umount failed", Says::Failed),
    ("unmounting failed", Says::Failed),
    ("exit status 32", Says::Status),
    ("exit status: 32", Says::Status),
    ("exit code 32", Says::Status),
    ("exited with 32", Says::Status),
];

/// Reasons that are not EBUSY.
const OTHER_REASONS: [&str; 27] = [
    "invalid argument",
    "no such file",
    "not mounted",
    "not currently mounted",
    "no mount point specified",
    "not a mount point",
    "not a mountpoint",
    "not found",
    "does not exist",
    "permission denied",
    "not permitted",
    "deadline exceeded",
    "deadlineexceeded",
    "timed out",
    "timeout",
    "context canceled",
    "transport endpoint",
    "input/output error",
    "i/o error",
    "stale file handle",
    "read-only file system",
    "not a directory",
    "directory not empty",
    "no space left",
    "connection refused",
    "status=0/success",
    "unknown filesystem type",
];

/// What was tried, and the error that speaks of it.
const VERBS: [(&str, BusyError); 48] = [
    ("unmounting", BusyError::Umount),
    ("unmount", BusyError::Umount),
    ("umounting", BusyError::Umount),
    ("umount2", BusyError::Umount),
    ("umount", BusyError::Umount),
    ("unmounthostmounts", BusyError::Umount),
    ("fusermount3", BusyError::Umount),
    ("fusermount", BusyError::Umount),
    ("teardown", BusyError::Umount),
    ("unlinkat", BusyError::Remove),
    ("unlink", BusyError::Remove),
    ("removing", BusyError::Remove),
    ("removeall", BusyError::Remove),
    ("removed", BusyError::Remove),
    ("remove", BusyError::Remove),
    ("rmtree", BusyError::Remove),
    ("rmdir", BusyError::Remove),
    ("cgroup_rmdir", BusyError::Remove),
    ("rm", BusyError::Remove),
    ("deleting", BusyError::Remove),
    ("delete", BusyError::Remove),
    ("replacing", BusyError::Remove),
    ("renaming", BusyError::Remove),
    ("renameat2", BusyError::Remove),
    ("renameat", BusyError::Remove),
    ("rename", BusyError::Remove),
    ("mv", BusyError::Remove),
    ("move", BusyError::Remove),
    ("mount point", BusyError::Remove),
    ("directory", BusyError::Remove),
    ("destroy", BusyError::Device),
    ("destroying", BusyError::Device),
    ("export", BusyError::Device),
    ("deactivate", BusyError::Device),
    ("lvremove", BusyError::Device),
    ("detach", BusyError::Device),
    ("detach failed", BusyError::Device),
    ("unmap", BusyError::Device),
    ("stop array", BusyError::Device),
    ("losetup", BusyError::Device),
    ("luksclose", BusyError::Device),
    ("ioctl on", BusyError::Device),
    ("logical volume", BusyError::Device),
    ("swapoff", BusyError::Device),
    ("remount", BusyError::Mount),
    ("mounting", BusyError::Mount),
    ("mount", BusyError::Mount),
    ("on", BusyError::Mount),
];

fn automaton<T>(of: &[(&str, T)]) -> AhoCorasick {
    let words = of.iter().map(|(word, _)| word);
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .build(words)
        .expect("these words are few")
}

static BUSY: LazyLock<AhoCorasick> = LazyLock::new(|| automaton(&PHRASES));
static REASONS: LazyLock<AhoCorasick> =
    LazyLock::new(|| automaton(&OTHER_REASONS.map(|reason| (reason, ()))));
static TRIED: LazyLock<AhoCorasick> = LazyLock::new(|| automaton(&VERBS));

fn is_inside(text: &[u8], at: &Range<usize>) -> bool {
    let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let first = text.get(at.start);
    let before = at.start.checked_sub(1).and_then(|before| text.get(before));
    letter(first) && letter(before) || letter(text.get(at.end))
}

/// All phrases of a text in their order, as far as `most`; what one says of the same error in other words is one.
pub(super) fn phrases(text: &[u8], most: usize) -> Vec<Phrase> {
    let mut found: Vec<Phrase> = Vec::new();
    let mut looks = most.saturating_mul(4);
    for hit in BUSY.find_iter(text) {
        looks = looks.saturating_sub(1);
        if found.len() >= most || looks == 0 {
            break;
        }
        let at = hit.range();
        let (word, says) = PHRASES[hit.pattern().as_usize()];
        // ebusy is the name of a program, EBUSY that of the error.
        let wrong_case = word == "ebusy" && &text[at.clone()] != b"EBUSY";
        if is_inside(text, &at) || wrong_case {
            continue;
        }
        if says == Says::Perhaps && is_something_else(text, &at) {
            continue;
        }
        let last = found.last_mut().filter(|last| {
            let between = text.get(last.at.end..at.start).unwrap_or_default();
            let error = |says: Says| matches!(says, Says::Busy | Says::Perhaps);
            error(last.says)
                && error(says)
                && between.len() <= 12
                && !between.iter().any(|byte| b"/,;\n".contains(byte))
        });
        match last {
            Some(last) => {
                last.at.end = at.end;
                if says == Says::Busy {
                    last.says = says;
                }
            }
            None => found.push(Phrase { at, says }),
        }
    }
    found
}

/// A port, a name or a processor that is in use or busy.
fn is_something_else(text: &[u8], at: &Range<usize>) -> bool {
    const OTHERS: [&[u8]; 13] = [
        b"address already",
        b"already",
        b"address",
        b"port is",
        b"port",
        b"name is",
        b"name",
        b"cpu is",
        b"cpu",
        b"server is",
        b"too",
        b"is too",
        b"lock",
    ];
    let before = text.get(..at.start).unwrap_or_default().trim_ascii_end();
    OTHERS.iter().any(|other| {
        let tail = before
            .len()
            .checked_sub(other.len())
            .and_then(|from| before.get(from..));
        tail.is_some_and(|tail| tail.eq_ignore_ascii_case(other))
    })
}

/// Whether it gives a reason that is not EBUSY.
pub(super) fn has_other_reason(text: &[u8]) -> bool {
    REASONS.is_match(text)
}

/// A word for what was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verb {
    pub(super) at: Range<usize>,
    pub(super) error: BusyError,
    /// The destination is as good as the source.
    pub(super) moves: bool,
    /// It says what was tried, where no path follows it.
    pub(super) by_itself: bool,
}

/// All of them, in their order.
pub(super) fn verbs(text: &[u8]) -> impl Iterator<Item = Verb> + '_ {
    TRIED.find_iter(text).filter_map(|hit| {
        let at = hit.range();
        let (word, error) = VERBS[hit.pattern().as_usize()];
        (!is_inside(text, &at)).then(|| Verb {
            at,
            error,
            moves: word.starts_with("rena") || word == "mv" || word == "move",
            by_itself: !matches!(word, "on" | "directory" | "mount point" | "removed" | "move"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Says, has_other_reason, phrases, verbs};
    use crate::logs::BusyError;

    fn says(text: &str) -> Vec<Says> {
        phrases(text.as_bytes(), 16)
            .iter()
            .map(|phrase| phrase.says)
            .collect()
    }

    #[test]
    fn one_error_in_several_words_is_one() {
        for text in [
            "EBUSY: resource busy or locked, rmdir '/x'",
            "[Errno 16] Device or resource busy: '/x'",
            "Resource busy (os error 16)",
            "Device or resource busy",
            "umount: /x: target is busy.",
        ] {
            assert_eq!(says(text), [Says::Busy], "{text}");
        }
        assert_eq!(
            says("remove /a: device or resource busy, remove /b: device or resource busy").len(),
            2
        );
    }

    #[test]
    fn what_is_no_such_phrase() {
        for text in [
            "ebusy who /x",
            "listen: address already in use",
            "the name is already in use",
            "The CPU is busy",
            "businesslike",
            "nobusyness",
        ] {
            assert_eq!(says(text), [], "{text}");
        }
        assert!(has_other_reason(b"umount: /x: Invalid argument") && !has_other_reason(b"umount: /x: busy"));
    }

    #[test]
    fn verbs_are_whole_words() {
        let of = |text: &'static str| verbs(text.as_bytes()).map(|verb| verb.error).collect::<Vec<_>>();
        assert_eq!(
            of("failed to unmount target, remove dir"),
            [BusyError::Umount, BusyError::Remove]
        );
        assert_eq!(of("amount of rmd"), []);
    }
}
