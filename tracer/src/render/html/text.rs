//! Text in a page. Whatever others named goes through here: control and direction characters are escaped as in all
//! output, and then what has a meaning in HTML.

use std::fmt::{self, Display, Write as _};

use crate::{
    model::Fix,
    text::{escape, printable, said},
};

/// A name that somebody chose, in a sentence: in quotes, unless it is a word like any other.
pub(super) struct Name<'a>(pub(super) &'a [u8]);

/// The same where the page sets it apart, as in `<code>`.
pub(super) struct Apart<'a>(pub(super) &'a [u8]);

/// Words of our own, which may quote others.
pub(super) struct Words<'a>(pub(super) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        markup(f, &said(self.0))
    }
}

impl Display for Apart<'_> {
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

/// Advice, with its command set apart: whole, on a line of its own.
pub(super) fn advice(page: &mut Page, fix: &Fix) {
    page.put(format_args!("{}", Words(&fix.words())));
    if let Some(command) = &fix.command {
        page.put(format_args!(
            "<pre><code>{}</code></pre>",
            Words(&command.to_string())
        ));
    }
}

/// A term and what is said of it, in a list of these.
pub(super) fn row(page: &mut Page, name: &str, value: &str) {
    page.put(format_args!("<dt>{name}</dt><dd>{}</dd>\n", Words(value)));
}

#[cfg(test)]
mod tests {
    use super::{Apart, Name, Page, advice};
    use crate::{
        model::Fix,
        text::{Command, said},
    };

    #[test]
    fn a_hostile_name_is_only_text() {
        let hostile = "<img src=x onerror=\"alert('1')\">&\u{202e}\x1b[31m".as_bytes();
        assert_eq!(
            Apart(hostile).to_string(),
            "&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;\\u{202e}\\x1b[31m"
        );
        let name = Name(hostile).to_string();
        assert!(
            name.starts_with("&#39;&lt;img src=x onerror=&quot;alert(&#39;\\&#39;&#39;1"),
            "{name}"
        );
        assert_eq!(Name(b"node-agent").to_string(), "node-agent");
    }

    #[test]
    fn only_the_command_is_set_apart() {
        let html = |fix: &Fix| {
            let mut page = Page::default();
            advice(&mut page, fix);
            page.0
        };
        let name = said(b"x: umount -l / (");
        let kill = Fix::command(
            format!("have {name} close the file, or end it"),
            Some(Command::new(&["kill", "-HUP"]).number(7_u32)),
            "",
        );
        assert_eq!(
            html(&kill),
            "have &#39;x: umount -l / (&#39; close the file, or end it:<pre><code>kill -HUP 7</code></pre>"
        );
        let quoted = Command::new(&["umount"]).path(b"/a  <b>");
        assert_eq!(
            html(&Fix::command("unmount it", quoted, "whoever uses it")),
            "unmount it (whoever uses it):<pre><code>umount &#39;/a  &lt;b&gt;&#39;</code></pre>"
        );
        assert_eq!(
            html(&Fix::change("umount -l / does not help")),
            "umount -l / does not help"
        );
    }
}
