//! What a message says is busy: the error, the path or data set, the container and the pod.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{MountOwner, mount_claim},
    model::Text,
};

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusyError {
    /// umount2 said EBUSY.
    Umount,
    /// An umount failed, and the line does not say with what.
    UmountFailed,
    /// unlink, rmdir or rename of a mount point said EBUSY.
    Remove,
    /// mount said EBUSY.
    Mount,
    /// A layer of an overlay is in use by another one.
    OverlayInUse,
    /// A data set or device is busy.
    Device,
    /// Something else said EBUSY.
    Other,
}

impl BusyError {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Umount => "umount",
            Self::UmountFailed => "umount_failed",
            Self::Remove => "remove",
            Self::Mount => "mount",
            Self::OverlayInUse => "overlay_in_use",
            Self::Device => "device",
            Self::Other => "other",
        }
    }
}

/// One thing that a message says is busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) error: BusyError,
    /// A path, or the name of a data set.
    pub(super) target: Option<Text>,
}

/// Phrases that say busy, in small letters.
const BUSY: [&[u8]; 8] = [
    b"device or resource busy",
    b"target is busy",
    b"device is busy",
    b"dataset is busy",
    b"pool is busy",
    b"is in-use as upperdir/workdir",
    b"is in-use by another mount",
    b"resource is busy",
];

/// An umount that failed without a reason. The missing space is in a log that was seen.
const FAILED: [&[u8]; 4] = [
    b"failed to unmount",
    b"failedto unmount",
    b"failed unmounting",
    b"failed to umount",
];

/// Reasons that are not EBUSY.
const OTHER_REASONS: [&[u8]; 9] = [
    b"invalid argument",
    b"no such file",
    b"not mounted",
    b"permission denied",
    b"not permitted",
    b"deadline exceeded",
    b"timed out",
    b"transport endpoint",
    b"input/output error",
];

/// Words before a path, the error that they speak of; longer ones first.
const VERBS: [(&[u8], BusyError); 19] = [
    (b"unmount target ", BusyError::Umount),
    (b"unmounting ", BusyError::Umount),
    (b"unmount ", BusyError::Umount),
    (b"umount ", BusyError::Umount),
    (b"umount: ", BusyError::Umount),
    (b"umount.nfs: ", BusyError::Umount),
    (b"umount.nfs4: ", BusyError::Umount),
    (b"unlinkat ", BusyError::Remove),
    (b"remove ", BusyError::Remove),
    (b"rename ", BusyError::Remove),
    (b"rmdir ", BusyError::Remove),
    (b"unlink ", BusyError::Remove),
    (b"mount point ", BusyError::Remove),
    (b"directory ", BusyError::Remove),
    (b"destroy ", BusyError::Device),
    (b"remount ", BusyError::Mount),
    (b"mount to ", BusyError::Mount),
    (b"mount ", BusyError::Mount),
    (b" on ", BusyError::Mount),
];

/// Things named in one line.
const MAX_BUSY: usize = 16;
/// Places of a message that are looked at, with those in quotes in it: the same said again is no news, but costs.
const LOOKS_MAX: usize = 64;

/// All that a message says is busy.
pub(super) fn find(message: &[u8]) -> Vec<Busy> {
    let mut found = Vec::new();
    collect(message, &mut found, 3, &mut LOOKS_MAX.clone());
    if found.is_empty() {
        found.extend(failed(message));
    }
    found
}

fn collect(message: &[u8], found: &mut Vec<Busy>, depth: usize, looks: &mut usize) {
    let small = message.to_ascii_lowercase();
    let mut from = 0;
    // Where each phrase is next, looked for once.
    let mut next = BUSY.map(|phrase| (position(&small, phrase, 0), phrase));
    while found.len() < MAX_BUSY
        && *looks > 0
        && let Some((at, phrase)) = first_from(&mut next, &small, from)
    {
        *looks -= 1;
        let end = at + phrase.len();
        if let Some((start, stop)) = quoted_around(message, at).filter(|_| depth > 0) {
            // A value in quotes is read without them, and then the rest.
            collect(&unquoted(&message[start..stop]), found, depth - 1, looks);
            from = stop.max(end);
        } else {
            let busy = before(&message[from..at], &small[from..at], phrase);
            if !found.contains(&busy) {
                found.push(busy);
            }
            from = end;
        }
    }
}

/// The first of the phrases from there on.
fn first_from(
    next: &mut [(Option<usize>, &'static [u8])],
    text: &[u8],
    from: usize,
) -> Option<(usize, &'static [u8])> {
    for (at, phrase) in &mut *next {
        if at.is_some_and(|at| at < from) {
            *at = position(text, phrase, from);
        }
    }
    next.iter()
        .filter_map(|(at, phrase)| Some(((*at)?, *phrase)))
        .min()
}

fn position(text: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?
        .windows(needle.len())
        .position(|window| window == needle)
        .map(|at| at + from)
}

/// The inside of the quoted string that a place lies in: `"..."` after `=`, `:`, a space or the beginning.
fn quoted_around(message: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut open = None;
    let mut index = 0;
    while index < message.len() {
        match (message[index], open) {
            (b'\\', Some(_)) => index += 1,
            (b'"', None) if index == 0 || b"= :([".contains(&message[index - 1]) => {
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
fn unquoted(text: &[u8]) -> Vec<u8> {
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

/// What stands before the phrase.
fn before(text: &[u8], small: &[u8], phrase: &[u8]) -> Busy {
    if phrase.starts_with(b"is in-use") {
        return Busy {
            error: BusyError::OverlayInUse,
            target: None,
        };
    }
    let verb = VERBS
        .iter()
        .flat_map(|(word, error)| {
            let ends = small.windows(word.len()).enumerate();
            ends.filter(move |(_, window)| window == word)
                .map(move |(at, _)| (at + word.len(), at, *error))
        })
        .filter(|(end, at, error)| {
            let whole = *at == 0 || !small[*at - 1].is_ascii_alphanumeric();
            whole && (begins_path(&text[*end..]) || *error == BusyError::Device)
        })
        // The last one; of two that end at one place, the longer.
        .max_by_key(|(end, at, _)| (*end, std::cmp::Reverse(*at)));
    let data_set = phrase == b"dataset is busy" || phrase == b"pool is busy";
    if let Some((end, _, error)) = verb {
        let moves = small[..end].ends_with(b"rename ");
        return Busy {
            error: if data_set { BusyError::Device } else { error },
            target: operand(&text[end..], moves),
        };
    }
    // Without a verb, the last part before the phrase.
    let body = text.strip_suffix(b": ").unwrap_or(text);
    let start = body
        .windows(2)
        .rposition(|pair| pair == b": ")
        .map_or(0, |at| at + 2);
    let segment = &body[start..];
    let path = (0..segment.len()).find(|index| {
        begins_path(&segment[*index..]) && (*index == 0 || b" =([{<".contains(&segment[index - 1]))
    });
    let error = match phrase {
        b"target is busy" => BusyError::Umount,
        _ if data_set => BusyError::Device,
        _ => BusyError::Other,
    };
    Busy {
        error,
        target: path.and_then(|at| operand(&segment[at..], false)),
    }
}

fn begins_path(text: &[u8]) -> bool {
    matches!(text, [b'/', ..] | [b'"' | b'\'' | b'`', b'/', ..])
}

/// The path at the beginning, up to its closing quote or the end without what leads to the phrase.
fn operand(text: &[u8], moves: bool) -> Option<Text> {
    let path = if let [quote @ (b'"' | b'\'' | b'`'), rest @ ..] = text {
        &rest[..rest.iter().position(|byte| byte == quote)?]
    } else {
        let mut path = text;
        for end in [&b"the "[..], b"(", b" ", b", ignoring:", b":", b"\"", b"'", b" "] {
            path = path.strip_suffix(end).unwrap_or(path);
        }
        if moves && let Some(at) = path.windows(2).position(|pair| pair == b" /") {
            path = &path[..at];
        }
        path
    };
    (!path.is_empty() && path.len() <= 4096).then(|| Text::from(path))
}

/// A line that only says that an umount failed.
fn failed(message: &[u8]) -> Option<Busy> {
    let small = message.to_ascii_lowercase();
    let (at, phrase) = FAILED
        .iter()
        .find_map(|phrase| Some((position(&small, phrase, 0)?, *phrase)))?;
    let rest = &message[at + phrase.len()..];
    if OTHER_REASONS
        .iter()
        .any(|reason| position(&small, reason, at).is_some())
    {
        return None;
    }
    // systemd: `Failed unmounting home.mount - /home.`
    let start = (0..rest.len())
        .find(|index| begins_path(&rest[*index..]) && (*index == 0 || rest[index - 1] == b' '));
    let path = start.map(|start| &rest[start..]).and_then(|path| {
        let end = path.iter().position(|byte| *byte == b' ' || *byte == b'\n');
        let path = &path[..end.unwrap_or(path.len())];
        operand(path.strip_suffix(b".").unwrap_or(path), false)
    });
    Some(Busy {
        error: BusyError::UmountFailed,
        target: path,
    })
}

/// Whose it is, as far as the message says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) container_id: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) pod_namespace: Option<String>,
    pub(super) pod_uid: Option<String>,
}

/// From the path, else from what the message calls it.
pub(super) fn names(message: &[u8], target: Option<&Text>) -> Names {
    let mut names = Names::default();
    match target.and_then(|target| mount_claim(target.as_bytes())?.owner) {
        Some(
            MountOwner::Task { id, .. }
            | MountOwner::Sandbox { id, .. }
            | MountOwner::Storage { id, .. }
            | MountOwner::Docker { id, .. },
        ) => names.container_id = Some(id),
        Some(MountOwner::Pod { uid }) => names.pod_uid = Some(uid),
        _ => {}
    }
    let text = String::from_utf8_lossy(message).replace('\\', "");
    let after = |key: &str| {
        let start = text.find(key)? + key.len();
        let rest = text.get(start..)?.trim_start_matches(['"', ' ']);
        let end = rest.find(['"', ' ', ',', ')', '}', ']']).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|value| !value.is_empty() && value.len() <= 300)
    };
    if names.container_id.is_none() {
        let keys = [
            "container_id:",
            "containerID=",
            "containerID:",
            "container ",
            "containers/",
        ];
        let id = keys.into_iter().filter_map(after).find_map(|value| {
            let id = value.rsplit("//").next()?.split([':', '/']).next()?;
            (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
        });
        names.container_id = id;
    }
    if let Some((namespace, pod)) = after("pod=").and_then(|pod| pod.split_once('/')) {
        names.pod_namespace = Some(namespace.to_owned());
        names.pod = Some(pod.to_owned());
    }
    if names.pod_uid.is_none() {
        let uid = ["podUID=", "(UID: "].into_iter().find_map(after);
        names.pod_uid = uid.map(ToOwned::to_owned);
    }
    names
}
