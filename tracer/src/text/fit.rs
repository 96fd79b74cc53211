//! Fits text into a number of columns.

/// Columns of a line.
pub(crate) const COLUMNS: usize = 110;
/// Stands for what was left out.
const GAP: &str = "[..]";

/// Number of columns of a text.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// Characters of East Asia and pictures are two columns wide on terminals. Marks that combine with the character
/// before are counted as one: rather too short a line than too long a one.
fn char_columns(char: char) -> usize {
    let wide = matches!(char,
        '\u{1100}'..='\u{115f}' | '\u{231a}'..='\u{231b}' | '\u{2329}'..='\u{232a}' | '\u{23e9}'..='\u{23f3}'
        | '\u{25fd}'..='\u{25fe}' | '\u{2614}'..='\u{27bf}' | '\u{2b1b}'..='\u{2b55}' | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}' | '\u{a960}'..='\u{a97f}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{fe10}'..='\u{fe19}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}'
        | '\u{16fe0}'..='\u{18dff}' | '\u{1aff0}'..='\u{1b2ff}' | '\u{1f000}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}');
    if wide { 2 } else { 1 }
}

/// Cuts a text in its middle to a number of columns: a path between components, anything else between characters (an
/// escape such as `\x1b` counts as one). It keeps more of the end than of the beginning, which says more in a path.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.to_owned();
    }
    let keep = limit.saturating_sub(GAP.len());
    if keep < 2 {
        return take(units(text), limit).concat();
    }
    let (head, tail) = whole_components(text, keep).unwrap_or_else(|| {
        let head = take(units(text), keep / 3).concat();
        let mut tail = take(units(text).into_iter().rev(), keep - columns(&head));
        tail.reverse();
        (head, tail.concat())
    });
    format!("{head}{GAP}{tail}")
}

/// Beginning and end of a path, in whole components; `None` where not even the last one fits.
fn whole_components(text: &str, keep: usize) -> Option<(String, String)> {
    let slashes = || text.match_indices('/').map(|(at, _)| at);
    let tails = slashes().filter_map(|at| text.get(at..));
    let tail = tails
        .filter(|tail| tail.len() > 1)
        .find(|tail| columns(tail) <= keep * 2 / 3)?;
    let heads = slashes().filter_map(|at| text.get(..=at));
    let head = heads
        .take_while(|head| columns(head) + columns(tail) <= keep)
        .last()
        .unwrap_or_default();
    Some((head.to_owned(), tail.to_owned()))
}

fn take<'a>(units: impl IntoIterator<Item = &'a str>, limit: usize) -> Vec<&'a str> {
    let mut left = limit;
    let fits = |unit: &&str| {
        let room = left.checked_sub(columns(unit));
        left = room.unwrap_or(0);
        room.is_some()
    };
    units.into_iter().take_while(fits).collect()
}

/// Characters and escapes.
fn units(text: &str) -> Vec<&str> {
    let mut units = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = escape_length(rest).unwrap_or(first.len_utf8());
        let (unit, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        units.push(unit);
        rest = after;
    }
    units
}

fn escape_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix('\\')?;
    match after.chars().next()? {
        'x' => Some(4),
        'u' => after.find('}').filter(|end| *end <= 8).map(|end| end + 2),
        '\\' | 'n' | 'r' | 't' => Some(2),
        _ => None,
    }
}

/// Breaks a text at blanks into lines of at most this many columns; parts without a blank are cut in the middle.
pub(crate) fn wrap(text: &str, limit: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let word = shorten(word, limit);
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(&word) <= limit => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// Distributes columns: a part that needs less than an equal share leaves the rest to the others.
pub(crate) fn share(needs: &[usize], available: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|index| needs.get(*index));
    let mut shares = vec![0; needs.len()];
    let mut left = available;
    for (done, index) in order.into_iter().enumerate() {
        let equal = left / (needs.len() - done);
        let given = needs.get(index).map_or(0, |need| equal.min(*need));
        left -= given;
        if let Some(share) = shares.get_mut(index) {
            *share = given;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{columns, share, shorten, units, wrap};
    use crate::text::escape;

    #[test]
    fn paths_lose_their_middle() {
        let path =
            "/host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4/rootfs/var/log/app.log";
        assert_eq!(shorten(path, 110), path);
        assert_eq!(
            shorten(path, 60),
            "/host/run/[..]/9c41d0e7a2f4/rootfs/var/log/app.log"
        );
        assert_eq!(shorten("abcdefghijklmnop", 10), "ab[..]mnop");
        assert_eq!(shorten("abcdef", 3), "abc");
    }

    #[test]
    fn escapes_and_characters_stay_whole() {
        assert_eq!(
            units("a\\x1b\\u{202e}\\\\\\q é"),
            ["a", "\\x1b", "\\u{202e}", "\\\\", "\\", "q", " ", "é"]
        );
        assert_eq!(shorten("日本語日本語日本語", 10), "日[..]本語");
    }

    #[test]
    fn lines_break_at_blanks() {
        assert_eq!(
            wrap("have it  close the file", 10),
            ["have it", "close the", "file"]
        );
        assert_eq!(wrap("umount /a/very/long/path/x", 12), ["umount", "/a/[..]/x"]);
        assert!(wrap("", 10).is_empty());
    }

    #[test]
    fn columns_are_shared_out() {
        assert_eq!(share(&[10, 50, 50], 70), [10, 30, 30]);
        assert_eq!(share(&[10, 20], 70), [10, 20]);
        assert!(share(&[], 70).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_its_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300), text: String,
            limit in 0_usize..60) {
            for text in [escape(&bytes), escape(text.as_bytes())] {
                prop_assert!(columns(&shorten(&text, limit)) <= limit);
                prop_assert!(wrap(&text, limit).iter().all(|line| columns(line) <= limit));
                prop_assert_eq!(units(&text).concat(), text);
            }
        }

        #[test]
        fn shares_are_never_more_than_there_is(needs in proptest::collection::vec(0_usize..100, 0..6), all in 0_usize..300) {
            let shares = share(&needs, all);
            prop_assert!(shares.iter().sum::<usize>() <= all);
            prop_assert!(shares.iter().zip(&needs).all(|(share, need)| share <= need));
        }
    }
}
