//! What tools that show logs put before each line: the names of files and their lines, of pods, of services.

use super::{header::dated_header, record::Record, stamp::LogClock};

/// Words before a line: `stern` has pod and container, `docker compose` a name and a bar.
const WORDS_MAX: usize = 3;
/// Bytes of them.
const BYTES_MAX: usize = 400;

/// Words after which a time is that of something else.
const NOT_BEFORE: [&str; 8] = ["until", "at", "since", "after", "before", "from", "by", "on"];

/// How much to skip until a line begins with a time of its own, or is a JSON object.
pub(super) fn skip(message: &[u8], clock: &LogClock) -> Option<usize> {
    let head = &message[..message.len().min(BYTES_MAX)];
    let head = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
    };
    starts(head).find(|at| {
        let rest = &message[*at..];
        is_record(rest) || dated_header(&mut Record::default(), rest, clock).is_some()
    })
}

/// JSON and logfmt, which have their times inside.
pub(super) fn is_record(rest: &[u8]) -> bool {
    const STARTS: [&[u8]; 4] = [b"{\"", b"time=", b"level=", b"ts="];
    STARTS.iter().any(|start| rest.starts_with(start))
}

/// Where a line may begin: after `file:`, `file:12:`, `12:`, and after each of the first words.
fn starts(head: &str) -> impl Iterator<Item = usize> + '_ {
    let word = head.find([' ', '\t']).unwrap_or(head.len());
    let colons = head[..word]
        .match_indices([':', '-'])
        .map(|(at, _)| at + 1)
        .take(8);
    let words = head
        .match_indices([' ', '\t'])
        .map(|(at, _)| at + 1)
        .filter(|at| {
            head[..*at - 1]
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .count()
                <= WORDS_MAX
        })
        .take(16)
        .filter(|at| {
            let last = head[..*at - 1].split([' ', '\t']).next_back().unwrap_or_default();
            !NOT_BEFORE.contains(&last)
        });
    colons.chain(words)
}
