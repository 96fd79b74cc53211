//! Text in a page. Whatever others named goes through here: control and direction characters are escaped as in all
//! output, and then what has a meaning in HTML.

use std::fmt::{self, Display, Write as _};

use crate::render::sanitize::{escape, printable};

/// A name or path that somebody chose.
pub(super) struct Name<'a>(pub(super) &'a [u8]);

/// Words of our own, which may quote others.
pub(super) struct Words<'a>(pub(super) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        markup(f, &escape(self.0))
    }
}

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        markup(f, &printable(self.0))
    }
}

fn markup(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for char in text.chars() {
        match char {
            '&' => f.write_str("&amp;")?,
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '"' => f.write_str("&quot;")?,
            '\'' => f.write_str("&#39;")?,
            _ => f.write_char(char)?,
        }
    }
    Ok(())
}

/// A page in the making. Writing into a string cannot fail.
#[derive(Debug, Default)]
pub(super) struct Page(pub(super) String);

impl Page {
    pub(super) fn put(&mut self, arguments: fmt::Arguments<'_>) {
        // `fmt::Write` of a string has no errors of its own.
        let _ = self.0.write_fmt(arguments);
    }
}

/// Commands that advice tells.
const COMMANDS: [&str; 11] = [
    "kill ",
    "kubectl ",
    "systemctl ",
    "docker ",
    "podman ",
    "ctr ",
    "nsenter ",
    "umount ",
    "umount -l ",
    "dmsetup ",
    "ebusy ",
];

/// Advice, with the command in it set apart: it begins the text or stands after a colon, and ends before a
/// parenthesis.
pub(super) fn advice(page: &mut Page, text: &str) {
    let starts = |at: usize| {
        text.get(at..)
            .is_some_and(|rest| COMMANDS.iter().any(|command| rest.starts_with(command)))
    };
    let after_colon = text.match_indices(": ").map(|(at, colon)| at + colon.len());
    let begin = std::iter::once(0)
        .chain(text.starts_with("and ").then_some(4))
        .chain(after_colon)
        .find(|at| starts(*at));
    let Some((before, rest)) = begin.and_then(|begin| text.split_at_checked(begin)) else {
        page.put(format_args!("{}", Words(text)));
        return;
    };
    let end = [" (", " first: ", "; "]
        .iter()
        .filter_map(|mark| rest.find(mark))
        .min()
        .unwrap_or(rest.len());
    let (command, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
    page.put(format_args!(
        "{}<code>{}</code>{}",
        Words(before),
        Words(command),
        Words(after)
    ));
}

#[cfg(test)]
mod tests {
    use super::{Name, Page, advice};

    #[test]
    fn a_hostile_name_is_only_text() {
        let name = Name("<img src=x onerror=\"alert('1')\">&\u{202e}\x1b[31m".as_bytes()).to_string();
        assert_eq!(
            name,
            "&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;\\u{202e}\\x1b[31m"
        );
    }

    #[test]
    fn the_command_in_an_advice_is_set_apart() {
        let html = |text: &str| {
            let mut page = Page::default();
            advice(&mut page, text);
            page.0
        };
        assert_eq!(
            html("have sh close the file, or: kill -HUP 7"),
            "have sh close the file, or: <code>kill -HUP 7</code>"
        );
        assert_eq!(
            html("umount /a first: it is mounted on top"),
            "<code>umount /a</code> first: it is mounted on top"
        );
        assert_eq!(
            html("or leave it running: nsenter -t 1 -m umount -l /a (takes its copy away)"),
            "or leave it running: <code>nsenter -t 1 -m umount -l /a</code> (takes its copy away)"
        );
        assert_eq!(html("have <b> let go of it"), "have &lt;b&gt; let go of it");
    }
}
