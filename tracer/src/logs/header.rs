//! What a line of text begins with: when it was logged, and by which program.

use super::{
    record::Record,
    stamp::{self, LogClock, Stamp},
};

/// Bytes that are looked at.
const HEAD_MAX: usize = 256;

/// The length of the header at the beginning.
pub(super) fn header(record: &mut Record, message: &[u8], clock: &LogClock) -> Option<usize> {
    let head = head(message)?;
    priority(head)
        .or_else(|| rfc5424(record, head, clock))
        .or_else(|| kmsg(record, head, clock))
        .or_else(|| ring(record, head, clock))
        .or_else(|| dated_header(record, message, clock))
        .or_else(|| foreign(record, head))
        .or_else(|| since_start(head))
        .or_else(|| of_day(record, head, clock))
}

/// The same, where it has a day: that is no accident.
pub(super) fn dated_header(record: &mut Record, message: &[u8], clock: &LogClock) -> Option<usize> {
    let head = head(message)?;
    klog(record, head, clock)
        .or_else(|| bracketed(record, head, clock))
        .or_else(|| lxc(record, head))
        .or_else(|| dated(record, head, clock))
}

/// What comes after a header.
pub(super) fn rest_after(message: &[u8], length: usize) -> &[u8] {
    let rest = message.get(length..).unwrap_or_default();
    let start = rest
        .iter()
        .position(|byte| !b" \t".contains(byte))
        .unwrap_or(rest.len());
    &rest[start..]
}

fn head(message: &[u8]) -> Option<&str> {
    let head = &message[..message.len().min(HEAD_MAX)];
    match std::str::from_utf8(head) {
        Ok(head) => Some(head),
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok(),
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `<3>`, of `dmesg -r` and of syslog on the wire.
fn priority(head: &str) -> Option<usize> {
    let (number, _) = head.strip_prefix('<')?.split_once('>')?;
    (number.len() <= 3 && digits(number)).then_some(number.len() + 2)
}

/// `1 2003-10-11T22:14:15.003Z host app 123 id [data]`, after its priority.
fn rfc5424(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let mut words = Words { head, at: 0 };
    let (version, time) = (words.next()?, words.next()?);
    if version.len() > 2 || !digits(version) || !time.contains('T') {
        return None;
    }
    let stamp = stamp::rfc3339(time, clock)?;
    let (_host, program) = (words.next()?, words.next()?);
    let (_pid, _id) = (words.next()?, words.next()?);
    record.note(Some(stamp));
    record.from(program);
    let rest = head.get(words.at..)?.trim_start_matches(' ');
    let start = head.len() - rest.len();
    if let Some(rest) = rest.strip_prefix('-') {
        return Some(head.len() - rest.len());
    }
    // Elements of data, whose values may have brackets in quotes.
    let mut quoted = false;
    let mut end = start;
    for (index, byte) in rest.bytes().enumerate() {
        match byte {
            b'"' if !rest[..index].ends_with('\\') => quoted = !quoted,
            b']' if !quoted => {
                end = start + index + 1;
                if !rest[index + 1..].starts_with('[') {
                    break;
                }
            }
            _ => {}
        }
    }
    Some(end)
}

/// `3,1234,447193907,-;`, of /dev/kmsg.
fn kmsg(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let (prefix, _) = head.split_once(';')?;
    let mut parts = prefix.split(',');
    let (level, sequence, time) = (parts.next()?, parts.next()?, parts.next()?);
    if ![level, sequence, time].into_iter().all(digits) {
        return None;
    }
    let micros: f64 = time.parse().ok()?;
    record.note(stamp::since_boot(&(micros / 1e6).to_string(), clock));
    record.from("kernel");
    Some(prefix.len() + 1)
}

/// `[  447.193907] `, `[Fri Feb  7 11:37:40 2025] `, `[  +0.002284] `, of dmesg.
fn ring(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let (inside, after) = head.strip_prefix('[')?.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let number =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    record.note(match words.as_slice() {
        [one] if number(one) => stamp::since_boot(one, clock),
        // Since the line before.
        [one] if one.strip_prefix('+').is_some_and(number) => None,
        [_, month, day, time, year] => Some(stamp::ctime([month, day, time, year], clock)?),
        _ => return None,
    });
    let mut length = inside.len() + 2;
    // The thread or processor that wrote it (CONFIG_PRINTK_CALLER).
    if let Some((caller, _)) = after.strip_prefix('[').and_then(|after| after.split_once(']'))
        && caller.trim_start().strip_prefix(['T', 'C']).is_some_and(digits)
    {
        length += caller.len() + 2;
    }
    // `journalctl -o short-monotonic` names host and program after it.
    let mut words = Words { head, at: length };
    if let (Some(_), Some(program)) = (words.next(), words.next())
        && is_program(program)
        && (program.ends_with("]:") || program == "kernel:")
    {
        record.from(program.split(['[', ':']).next().unwrap_or(program));
        return Some(words.at);
    }
    if record.source.is_none() {
        record.from("kernel");
    }
    Some(length)
}

/// `E1117 10:25:41.898748   29955 nestedpendingoperations.go:253] `.
fn klog(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let (prefix, _) = head.split_once("] ")?;
    let mut words = prefix.strip_prefix(['I', 'W', 'E', 'F'])?.split_whitespace();
    let (date, time) = (words.next()?, words.next()?);
    record.note(Some(stamp::klog(date, time, clock)?));
    Some(prefix.len() + 2)
}

/// `[2025-02-07T11:37:40Z ERROR crate] `, `[2025-02-07 11:37:40.123] `, `[07/Feb/2025:11:37:40 +0000] `,
/// `EROR[02-07|11:37:40] `.
fn bracketed(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let open = head.find('[').filter(|open| {
        *open == 0 || *open <= 5 && head.bytes().take(*open).all(|byte| byte.is_ascii_uppercase())
    })?;
    let (inside, _) = head.get(open + 1..)?.split_once(']')?;
    let length = open + inside.len() + 2;
    let stamp = match inside.split_once('|') {
        // log15, of LXD.
        Some((date, time)) => {
            let (month, day) = date.split_once('-')?;
            stamp::klog(&format!("{month}{day}"), time, clock)?
        }
        None => dated_words(&mut Words { head: inside, at: 0 }, clock)?,
    };
    record.note(Some(stamp));
    Some(length)
}

/// `lxc 20170716184837.478 ERROR    lxc_cgfs - `, with the name of the container or without.
fn lxc(record: &mut Record, head: &str) -> Option<usize> {
    let mut words = Words { head, at: 0 };
    let mut stamp = None;
    for _ in 0..3 {
        stamp = stamp::compact(words.next()?);
        if stamp.is_some() {
            break;
        }
    }
    record.note(Some(stamp?));
    if head.starts_with("lxc") {
        record.from("lxc");
    }
    Some(words.at)
}

/// `sept. 21 00:57:44 host kubelet[1408]: `: syslog in a language that is not known here. What it wraps may have a time.
fn foreign(record: &mut Record, head: &str) -> Option<usize> {
    let mut words = Words { head, at: 0 };
    let (month, day, time, host, program) = (
        words.next()?,
        words.next()?,
        words.next()?,
        words.next()?,
        words.next()?,
    );
    let is_time = time.len() >= 8 && time.bytes().filter(|byte| *byte == b':').count() == 2;
    let is_month = month.trim_end_matches('.').chars().all(char::is_alphabetic);
    if !is_month || day.len() > 2 || !digits(day) || !is_time || !is_host(host) || !is_program(program) {
        return None;
    }
    record.from(program.split(['[', ':']).next().unwrap_or(program));
    Some(words.at)
}

/// `ERRO[0004] ` of logrus on a terminal: seconds since the program began.
fn since_start(head: &str) -> Option<usize> {
    let (level, rest) = head.split_at_checked(4)?;
    let (seconds, _) = rest.strip_prefix('[')?.split_once(']')?;
    (level.bytes().all(|byte| byte.is_ascii_uppercase()) && digits(seconds)).then_some(seconds.len() + 6)
}

/// `11:37:40.123 `, `[11:37:40] `: without a day.
fn of_day(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    // strace tells who it was before that.
    let skipped = match head.strip_prefix("[pid ").and_then(|rest| rest.find("] ")) {
        Some(length) => length + 7,
        None => 0,
    };
    let first = head.get(skipped..)?.split([' ', '\t']).next()?;
    let time = first.trim_start_matches('[').trim_end_matches([']', ':']);
    record.note(Some(stamp::time_of_day(time, clock)?));
    Some(skipped + first.len())
}

/// A date of any kind, then, where it is a journal's or syslog's, a host and a program; or the stream of a CRI log.
fn dated(record: &mut Record, head: &str, clock: &LogClock) -> Option<usize> {
    let mut words = Words { head, at: 0 };
    record.note(Some(dated_words(&mut words, clock)?));
    let end = words.at;
    match (words.next(), words.next()) {
        // The tag of a CRI log: full or part of a line.
        (Some("stdout" | "stderr"), Some("F" | "P")) => Some(words.at),
        (Some(host), Some(program)) if is_host(host) && is_program(program) => {
            record.from(program.split(['[', ':']).next().unwrap_or(program));
            Some(words.at)
        }
        _ => Some(end),
    }
}

/// The words of a date, its zone with them.
fn dated_words(words: &mut Words<'_>, clock: &LogClock) -> Option<Stamp> {
    let begin = words.at;
    let first = words.next()?;
    if first.contains('T')
        && let Some(stamp) = stamp::rfc3339(first.trim_end_matches(':'), clock)
    {
        return Some(stamp);
    }
    if first.contains('.')
        && let Some(stamp) = first.parse().ok().and_then(stamp::epoch)
    {
        return Some(stamp);
    }
    if let Some(stamp) = common(first, words) {
        return Some(stamp);
    }
    let second = words.next()?;
    // `Fri 2025-02-07 11:37:40 UTC`, of `journalctl -o short-full`.
    let (date, time) = if first.len() == 3 && second.len() == 10 {
        (second, words.next()?)
    } else {
        (first, second)
    };
    // Go's own log has slashes.
    let date = date.replace('/', "-");
    let civil = format!("{date} {}", time.trim_end_matches(':'));
    if let Some(stamp) = stamp::rfc3339(&civil, clock) {
        return zoned(words, &civil, stamp, clock);
    }
    // `Fri, 07 Feb 2025 11:37:40 GMT`.
    if first.ends_with(',') {
        let mut end = Words {
            head: words.head,
            at: begin,
        };
        for _ in 0..6 {
            end.next()?;
        }
        let stamp = stamp::mail(words.head.get(begin..end.at)?.trim())?;
        words.at = end.at;
        return Some(stamp);
    }
    // `Fri Feb  7 11:37:40 CET 2025` of date(1), `Fri Feb  7 11:37:40 2025`, and `Feb  7 11:37:40` of syslog.
    words.at = begin;
    let day_first = first.len() == 3 && stamp::is_day(first);
    if day_first {
        words.next()?;
    }
    let (month, day, time) = (words.next()?, words.next()?, words.next()?);
    let stamp = stamp::syslog(month, day, time, clock)?;
    let mut ahead = Words { ..*words };
    let mut zone = ahead.next().unwrap_or_default();
    let mut year = zone;
    if stamp::is_zone(zone, clock) {
        year = ahead.next().unwrap_or_default();
    } else {
        zone = "";
    }
    if year.len() == 4 && digits(year) {
        let whole = stamp::ctime([month, day, time, year], clock)?;
        words.at = ahead.at;
        return if zone.is_empty() {
            Some(whole)
        } else {
            stamp::in_zone(whole, zone, clock)
        };
    }
    Some(stamp)
}

/// `07/Feb/2025:11:37:40 +0000`, of web servers.
fn common(first: &str, words: &mut Words<'_>) -> Option<Stamp> {
    let (date, time) = first.split_once(':')?;
    let mut parts = date.split('/');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let offset = Words { ..*words }.next()?;
    let stamp = stamp::mail(&format!("{day} {month} {year} {time} {offset}"))?;
    words.next()?;
    Some(stamp)
}

/// The zone after a date, in one or two words: `UTC`, `+0000 UTC`.
fn zoned(words: &mut Words<'_>, civil: &str, stamp: Stamp, clock: &LogClock) -> Option<Stamp> {
    if stamp.whole {
        return Some(stamp);
    }
    let mut ahead = Words { ..*words };
    let Some(zone) = ahead.next() else {
        return Some(stamp);
    };
    if zone.len() == 5 && zone.starts_with(['+', '-']) && digits(&zone[1..]) {
        let stamp = stamp::rfc3339(&format!("{civil}{zone}"), clock)?;
        words.at = ahead.at;
        if ahead.next().is_some_and(|word| stamp::is_zone(word, clock)) {
            words.at = ahead.at;
        }
        return Some(stamp);
    }
    if !stamp::is_zone(zone, clock) {
        return Some(stamp);
    }
    words.at = ahead.at;
    stamp::with_zone(civil, zone, clock)
}

/// `containerd[602]:`, `kernel:`; a path with a colon is none.
fn is_program(word: &str) -> bool {
    word.ends_with(':')
        && word.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '(')
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"[]:._-()@/".contains(&byte))
}

fn is_host(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Words and where they end.
#[derive(Clone, Copy)]
struct Words<'a> {
    head: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.head.get(self.at..)?;
        let start = rest.find(|char: char| !matches!(char, ' ' | '\t'))?;
        let word = rest[start..].split([' ', '\t']).next()?;
        self.at += start + word.len();
        Some(word)
    }
}
