//! What a message says is busy: the error, and the path or the data set.

use std::ops::Range;

use super::{
    error::BusyError,
    names::names,
    paths::{Span, is_code, spans},
    phrases::{Phrase, Says, Verb, has_other_reason, phrases, verbs},
    text::{is_word, of_unit_name, quoted_around, unquoted},
};
use crate::model::Text;

/// One thing that a message says is busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) error: BusyError,
    /// A path, or the name of a data set.
    pub(super) target: Option<Text>,
    /// All paths of the message with whatever may belong to them, that of the target first.
    pub(super) paths: Vec<Text>,
}

/// Things named in one line.
const MAX_BUSY: usize = 16;
/// Places of a message that are looked at, with those in quotes in it: the same said again is no news, but costs.
const LOOKS_MAX: usize = 64;
/// Texts in quotes in texts in quotes.
const DEPTH_MAX: usize = 3;
/// Paths of one message, and bytes of all of them.
const PATHS_MAX: usize = 32;
const PATHS_BYTES_MAX: usize = 8192;

/// All that a message says is busy.
pub(super) fn find(message: &[u8]) -> Vec<Busy> {
    let mut found = Vec::new();
    collect(message, &mut found, DEPTH_MAX, &mut LOOKS_MAX.clone());
    if found.is_empty() {
        found.extend(failed(message));
    }
    // What only says again that something is busy.
    if found.iter().any(|busy| busy.target.is_some()) {
        found.retain(|busy| busy.target.is_some() || busy.error == BusyError::OverlayInUse);
    }
    if !found.is_empty() {
        let record = Record::of(message);
        for busy in &mut found {
            record.complete(busy);
        }
    }
    found
}

/// All paths of a message with whatever may belong to each.
pub(super) fn all_paths(message: &[u8]) -> Vec<Text> {
    Record::of(message)
        .paths
        .into_iter()
        .map(|(_, whole, _)| whole)
        .collect()
}

/// The paths of a message about umounts and the like, each with whatever may belong to it.
pub(super) fn tried_paths(message: &[u8]) -> Vec<(Text, Text, BusyError)> {
    if !message.contains(&b'/') || !speaks_of_it(message) {
        return Vec::new();
    }
    let record = Record::of(message);
    let Some(error) = record.error else {
        return Vec::new();
    };
    let paths = record.paths.into_iter();
    paths.map(|(path, whole, _)| (path, whole, error)).collect()
}

fn collect(message: &[u8], found: &mut Vec<Busy>, depth: usize, looks: &mut usize) {
    let said: Vec<Phrase> = phrases(message, LOOKS_MAX)
        .into_iter()
        .filter(|phrase| !matches!(phrase.says, Says::Failed | Says::Status))
        .collect();
    let mut from = 0;
    for (index, phrase) in said.iter().enumerate() {
        if found.len() >= MAX_BUSY || *looks == 0 {
            break;
        }
        if phrase.at.start < from {
            continue;
        }
        *looks -= 1;
        if let Some((start, stop)) = quoted_around(message, phrase.at.start).filter(|_| depth > 0) {
            // A value in quotes is read without them, and then the rest.
            collect(&unquoted(&message[start..stop]), found, depth - 1, looks);
            from = stop.max(phrase.at.end);
            continue;
        }
        let until = said.get(index + 1).map_or(message.len(), |next| next.at.start);
        let clause = Clause {
            before: &message[from..phrase.at.start],
            after: message.get(phrase.at.end..until).unwrap_or_default(),
            says: phrase.says,
        };
        for busy in clause.read(message) {
            let known = found
                .iter()
                .any(|known| (known.error, &known.target) == (busy.error, &busy.target));
            if !known && found.len() < MAX_BUSY {
                found.push(busy);
            }
        }
        from = phrase.at.end;
    }
}

/// What stands around a phrase, up to the phrases beside it.
struct Clause<'m> {
    before: &'m [u8],
    after: &'m [u8],
    says: Says,
}

impl Clause<'_> {
    fn read(&self, message: &[u8]) -> Vec<Busy> {
        if self.says == Says::OverlayInUse {
            return vec![Busy::new(BusyError::OverlayInUse, None)];
        }
        if self.says == Says::References {
            return self.references();
        }
        let before = verbs_outside(self.before);
        let found = self
            .path_before(&before)
            .or_else(|| name_after(self.before, &before))
            .or_else(|| self.path_after());
        if self.says == Says::Perhaps && !(speaks_of_it(message) && found.is_some()) {
            return Vec::new();
        }
        let (error, target) = match found {
            Some((error, target)) => (error, Some(target)),
            None => (last_by_itself(&before), None),
        };
        let error = error.unwrap_or(match self.says {
            Says::DeviceBusy => BusyError::Device,
            _ if self.before.ends_with(b"umount: ") => BusyError::Umount,
            _ => BusyError::Other,
        });
        let is_path = target.as_deref().is_some_and(|target| target.starts_with(b"/"));
        let error = match (self.says, error) {
            (Says::DeviceBusy, BusyError::Umount) if is_path => error,
            (Says::DeviceBusy, _) => BusyError::Device,
            _ => error,
        };
        vec![Busy::new(error, target)]
    }

    /// The last path that a word for what was tried stands right before; else the first one of the last part.
    fn path_before(&self, verbs: &[Verb]) -> Option<(Option<BusyError>, Vec<u8>)> {
        let text = self.before;
        let all = without_code(text, spans(text, PATHS_MAX));
        let direct = all.iter().enumerate().rev().find_map(|(index, span)| {
            let verb = verbs.iter().rev().find(|verb| verb.at.end <= span.start)?;
            is_direct(&text[verb.at.end..span.start]).then_some((index, verb))
        });
        if let Some((index, verb)) = direct {
            let span = all[index];
            // An option of mount(8) and of sentences: `mount A on B`, `error unmounting A on B`.
            let on = text[verb.at.clone()].eq_ignore_ascii_case(b"on");
            let earlier = verbs
                .iter()
                .rev()
                .find(|other| other.at.end <= verb.at.start && other.by_itself);
            // `unmounting bind mount P`: there it is no verb.
            let noun = |earlier: &&Verb| {
                let between = &text[earlier.at.end..verb.at.start];
                verb.error == BusyError::Mount && !between.iter().any(|byte| b"/:,;".contains(byte))
            };
            let error = earlier
                .filter(|earlier| on || !verb.by_itself || noun(earlier))
                .map_or(verb.error, |earlier| earlier.error);
            let path = match all.get(index + 1) {
                Some(to) if verb.moves => moved(span.path(text), to.path(text)),
                _ => span.path(text),
            };
            return Some((Some(error), path.to_vec()));
        }
        let body = text.trim_ascii_end();
        let body = body.strip_suffix(b":").unwrap_or(body);
        let part = body
            .windows(2)
            .rposition(|pair| pair == b": ")
            .map_or(0, |at| at + 2);
        let usable = |span: &&Span| span.path(text) != b"/";
        let span = (all.iter().filter(usable).find(|span| span.start >= part))
            .or_else(|| all.iter().rev().find(usable))?;
        Some((last_by_itself(verbs), span.path(text).to_vec()))
    }

    /// Errors of Python, Node and LXC name the path after the error.
    fn path_after(&self) -> Option<(Option<BusyError>, Vec<u8>)> {
        let text = self.after;
        let all = without_code(text, spans(text, PATHS_MAX));
        let span = all.iter().find(|span| span.path(text) != b"/")?;
        let verb = verbs_outside(&text[..span.start])
            .into_iter()
            .rfind(|verb| verb.by_itself);
        let to = all.iter().find(|other| other.start > span.start);
        let path = match to {
            Some(to)
                if verb.as_ref().is_some_and(|verb| verb.moves) || is_arrow(&text[span.end..to.start]) =>
            {
                moved(span.path(text), to.path(text))
            }
            _ => span.path(text),
        };
        let error = verb.map(|verb| verb.error);
        let error = error.or_else(|| last_by_itself(&verbs_outside(self.before)));
        let arrow = to.is_some_and(|to| is_arrow(&text[span.end..to.start]));
        Some((error.or(arrow.then_some(BusyError::Remove)), path.to_vec()))
    }

    /// `the device mount path P is still mounted by other references [A B]`: the list is the answer.
    fn references(&self) -> Vec<Busy> {
        let last = without_code(self.before, spans(self.before, PATHS_MAX)).pop();
        let target = last.map(|span| span.path(self.before).to_vec());
        let list = spans(self.after, MAX_BUSY);
        let list = list.iter().map(|span| span.path(self.after).to_vec());
        std::iter::once(Busy::new(BusyError::UmountFailed, target))
            .chain(list.map(|path| Busy::new(BusyError::Reference, Some(path))))
            .collect()
    }
}

impl Busy {
    fn new(error: BusyError, target: Option<Vec<u8>>) -> Self {
        Self {
            error,
            target: target.filter(|path| path.len() <= 4096).map(Text::from),
            paths: Vec::new(),
        }
    }

    /// Whether it says more than that some umount failed: the lines after that may.
    pub(super) fn is_about_something(&self, message: &[u8]) -> bool {
        self.error != BusyError::UmountFailed || self.target.is_some() || {
            let names = names(message, None);
            !names.containers.is_empty() || names.pod.is_some() || names.pod_uid.is_some()
        }
    }
}

fn without_code(text: &[u8], mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| !is_code(span.path(text), text.get(span.end..).unwrap_or_default()));
    spans
}

/// Whether only signs, and what umount(8) and its like call a path, stand between a word and a path.
fn is_direct(between: &[u8]) -> bool {
    const NAMES: [&[u8]; 16] = [
        b"target",
        b"the",
        b"path",
        b"directory",
        b"dir",
        b"volume",
        b"mount",
        b"point",
        b"to",
        b"file",
        b"args",
        b"arguments",
        b"rootfs",
        b"at",
        b"nfs",
        b"nfs4",
    ];
    between.len() <= 64
        && between
            .split(|byte| !byte.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .all(|word| NAMES.contains(&word.to_ascii_lowercase().as_slice()))
}

fn is_arrow(between: &[u8]) -> bool {
    between.windows(2).any(|pair| pair == b"->")
}

/// Of a rename that was refused: the destination, unless that is only the source with an ending.
fn moved<'t>(from: &'t [u8], to: &'t [u8]) -> &'t [u8] {
    if to.starts_with(from) { from } else { to }
}

/// Words for what was tried, but those in paths: `/volumes/x/mount`.
fn verbs_outside(text: &[u8]) -> Vec<Verb> {
    let paths = spans(text, PATHS_MAX);
    verbs(text)
        .filter(|verb| {
            !paths
                .iter()
                .any(|path| path.start <= verb.at.start && verb.at.end <= path.end)
        })
        .collect()
}

fn last_by_itself(verbs: &[Verb]) -> Option<BusyError> {
    verbs
        .iter()
        .rev()
        .find(|verb| verb.by_itself)
        .map(|verb| verb.error)
}

/// Whether a message is about umounts and what they are done for.
fn speaks_of_it(message: &[u8]) -> bool {
    verbs(message).any(|verb| verb.by_itself && verb.error != BusyError::Mount)
}

/// The name of a data set, a logical volume or a mapped device, which is no path.
fn name_after(text: &[u8], verbs: &[Verb]) -> Option<(Option<BusyError>, Vec<u8>)> {
    let verb = verbs.iter().rev().find(|verb| verb.by_itself)?;
    let rest = text.get(verb.at.end..)?.strip_prefix(b" ")?;
    let rest = rest.strip_prefix(b"-r ").unwrap_or(rest);
    let name = match rest {
        [quote @ (b'"' | b'\''), inside @ ..] => &inside[..inside.iter().position(|byte| byte == quote)?],
        _ if verb.error == BusyError::Device => {
            let length = rest
                .iter()
                .position(|byte| b" ,:;".contains(byte) && !is_colon_inside(rest, *byte));
            let name = &rest[..length.unwrap_or(rest.len())];
            let is_id = name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
            let is_name = name
                .iter()
                .any(|byte| b"/-_".contains(byte) || byte.is_ascii_digit());
            Some(name).filter(|_| is_name && !is_id)?
        }
        _ => return None,
    };
    let plain = !name.is_empty()
        && name.len() <= 256
        && name.iter().all(|byte| is_word(*byte) || b"/:@+%~".contains(byte));
    plain.then(|| (Some(verb.error), name.to_vec()))
}

/// Names of device-mapper devices have colons: `docker-253:1-1234`.
fn is_colon_inside(name: &[u8], byte: u8) -> bool {
    let at = name.iter().position(|one| *one == b':');
    byte == b':' && at.is_some_and(|at| name.get(at + 1).is_some_and(u8::is_ascii_alphanumeric))
}

/// A line that only says that an umount failed.
fn failed(message: &[u8]) -> Option<Busy> {
    let said = phrases(message, LOOKS_MAX);
    let umount = |verb: Verb| verb.error == BusyError::Umount;
    let phrase = said.iter().find(|phrase| match phrase.says {
        Says::Failed => true,
        Says::Status => verbs(message).any(umount),
        _ => false,
    })?;
    if has_other_reason(message) {
        return None;
    }
    let target = path_of_failed(message, &phrase.at).or_else(|| unit_in(message));
    Some(Busy::new(BusyError::UmountFailed, target))
}

fn path_of_failed(message: &[u8], at: &Range<usize>) -> Option<Vec<u8>> {
    let all = without_code(message, spans(message, PATHS_MAX));
    let after = all
        .iter()
        .find(|span| span.start >= at.end && span.path(message) != b"/");
    let span = after.or_else(|| all.iter().rev().find(|span| span.path(message) != b"/"))?;
    Some(span.path(message).to_vec())
}

/// systemd calls a mount by its unit.
fn unit_in(message: &[u8]) -> Option<Vec<u8>> {
    message
        .split(|byte| b" :,'\"".contains(byte))
        .take(64)
        .find_map(|word| {
            let word = word.strip_suffix(b".").unwrap_or(word);
            of_unit_name(word.strip_suffix(b".mount")?)
        })
}

/// All paths of a message: by grammar, with whatever may belong to it, and how likely its field is the one that was busy.
struct Record {
    paths: Vec<(Text, Text, u8)>,
    error: Option<BusyError>,
}

impl Record {
    fn of(message: &[u8]) -> Self {
        let mut paths = Vec::new();
        let mut bytes = 0;
        for span in without_code(message, spans(message, PATHS_MAX)) {
            let (path, whole) = (span.path(message), span.whole(message));
            bytes += whole.len();
            if path == b"/" || bytes > PATHS_BYTES_MAX {
                continue;
            }
            let key = field_of(&message[..span.start]);
            paths.push((Text::from(path), Text::from(whole), rank(key)));
            // The source of a network file system has its server before it.
            paths.extend(with_server(message, span).map(|text| (Text::from(text), Text::from(text), 3)));
        }
        let tried = verbs_outside(message);
        let mut tried: Vec<BusyError> = tried
            .iter()
            .filter(|verb| verb.by_itself)
            .map(|verb| verb.error)
            .collect();
        tried.sort_unstable();
        Self {
            paths,
            error: tried.first().copied(),
        }
    }

    fn complete(&self, busy: &mut Busy) {
        if busy.error == BusyError::OverlayInUse {
            return;
        }
        if busy.error == BusyError::Other {
            busy.error = self.error.unwrap_or(BusyError::Other);
        }
        if busy.target.is_none() {
            let best = self.paths.iter().min_by_key(|(_, _, rank)| *rank);
            busy.target = best.map(|(path, ..)| path.clone());
        }
        let own = |(path, ..): &&(Text, Text, u8)| Some(path) == busy.target.as_ref();
        let (first, rest): (Vec<_>, Vec<_>) = self.paths.iter().partition(|path| own(path));
        busy.paths = first
            .into_iter()
            .chain(rest)
            .map(|(_, whole, _)| whole.clone())
            .collect();
        busy.paths.dedup();
    }
}

/// The name of the field that a text ends in the beginning of: `host-path=`, `"path":"`.
fn field_of(before: &[u8]) -> &[u8] {
    let end = before
        .iter()
        .rposition(|byte| !b"\"' :=\\".contains(byte))
        .map_or(0, |at| at + 1);
    if !before[end..].iter().any(|byte| b"=:".contains(byte)) {
        return b"";
    }
    let start = before[..end]
        .iter()
        .rposition(|byte| !is_word(*byte))
        .map_or(0, |at| at + 1);
    before[..end].get(start..).unwrap_or_default()
}

/// Fields that name what was unmounted come before those that name something else.
fn rank(field: &[u8]) -> u8 {
    const FIRST: [&str; 9] = [
        "target", "mount", "path", "dest", "rootfs", "volume", "dir", "staging", "where",
    ];
    const LAST: [&str; 9] = [
        "caller", "source", "file", "sock", "address", "bundle", "log", "binary", "cmd",
    ];
    let field = String::from_utf8_lossy(field).to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| field.contains(word));
    if has(&LAST) { 2 } else { u8::from(!has(&FIRST)) }
}

/// `server:/export`, where a path is preceded by a name of a host.
fn with_server(message: &[u8], span: Span) -> Option<&[u8]> {
    let before = message[..span.start].strip_suffix(b":")?;
    let start = before
        .iter()
        .rposition(|byte| !is_word(*byte) && !b"[]:".contains(byte))
        .map_or(0, |at| at + 1);
    (start < before.len()).then(|| &message[start..span.end])
}
