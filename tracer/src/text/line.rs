//! A line of output: a label, and parts that can be cut or left out until it fits.

use super::fit::{COLUMNS, columns, share, shorten};
use super::{escape, is_bare, printable, said_always};

/// A name is not cut below that.
const LEAST_NAME: usize = 20;
/// A path is not cut below that.
const LEAST_PATH: usize = 30;

#[derive(Debug, Clone)]
enum Part {
    Words(String),
    Cut {
        /// Escaped.
        text: String,
        least: usize,
        /// It could be taken for words of ours.
        quoted: bool,
    },
    /// The lowest rank is left out first.
    Maybe {
        text: String,
        rank: u8,
    },
}

/// A line in the making. It escapes names and paths.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    label: String,
    parts: Vec<Part>,
}

impl Line {
    /// With a label at the margin.
    pub(crate) fn new(label: &str) -> Self {
        Self {
            label: format!("{label:<6} "),
            parts: Vec::new(),
        }
    }

    /// With a label below one at the margin.
    pub(crate) fn sub(label: &str) -> Self {
        Self {
            label: format!("  {label:<5}  "),
            parts: Vec::new(),
        }
    }

    /// Words of our own.
    pub(crate) fn words(mut self, words: impl Into<String>) -> Self {
        self.parts.push(Part::Words(words.into()));
        self
    }

    /// A name that somebody chose: in quotes, unless it is a word like any other.
    pub(crate) fn name(self, name: &[u8]) -> Self {
        self.cut(name, LEAST_NAME)
    }

    /// A name that somebody chose, always in quotes.
    pub(crate) fn quoted(self, name: &[u8]) -> Self {
        if is_bare(&escape(name)) {
            self.words("\"").name(name).words("\"")
        } else {
            self.name(name)
        }
    }

    /// Words that already contain escaped names.
    pub(crate) fn brief(mut self, words: String) -> Self {
        self.parts.push(Part::Cut {
            text: words,
            least: LEAST_NAME,
            quoted: false,
        });
        self
    }

    /// A path that somebody chose.
    pub(crate) fn path(self, path: &[u8]) -> Self {
        self.cut(path, LEAST_PATH)
    }

    fn cut(mut self, name: &[u8], least: usize) -> Self {
        let text = escape(name);
        let quoted = !is_bare(&text);
        self.parts.push(Part::Cut { text, least, quoted });
        self
    }

    /// Left out if there is no room; names in it are already cut and escaped.
    pub(crate) fn maybe(mut self, rank: u8, text: impl Into<String>) -> Self {
        self.parts.push(Part::Maybe {
            text: text.into(),
            rank,
        });
        self
    }

    /// Anything else that writes parts.
    pub(crate) fn with(self, write: impl FnOnce(Self) -> Self) -> Self {
        write(self)
    }

    /// The line, in at most [`COLUMNS`] columns.
    pub(crate) fn finish(mut self) -> String {
        while self.least() > COLUMNS {
            let optional = self
                .parts
                .iter()
                .enumerate()
                .filter_map(|(index, part)| match part {
                    Part::Maybe { rank, .. } => Some((*rank, index)),
                    _ => None,
                });
            let Some((_, index)) = optional.min() else { break };
            self.parts.remove(index);
        }
        let fixed: usize = self.parts.iter().map(Part::fixed).sum();
        let needs: Vec<usize> = self.parts.iter().filter_map(Part::cut).collect();
        let left = COLUMNS.saturating_sub(columns(&self.label) + fixed);
        let mut shares = share(&needs, left).into_iter();
        let mut line = self.label.clone();
        for part in &self.parts {
            match part {
                Part::Words(text) | Part::Maybe { text, .. } => line.push_str(text),
                Part::Cut { text, quoted, .. } => {
                    line.push_str(&fitted(text, *quoted, shares.next().unwrap_or(0)));
                }
            }
        }
        shorten(&printable(line.trim_end()), COLUMNS)
    }

    fn least(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::least).sum();
        columns(&self.label) + parts
    }
}

impl Part {
    fn fixed(&self) -> usize {
        match self {
            Self::Words(text) | Self::Maybe { text, .. } => columns(text),
            Self::Cut { .. } => 0,
        }
    }

    /// The columns of the parts that can be cut.
    fn cut(&self) -> Option<usize> {
        if let Self::Cut { text, quoted, .. } = self {
            Some(needs(text, *quoted))
        } else {
            None
        }
    }

    fn least(&self) -> usize {
        match self {
            Self::Cut { text, least, quoted } => needs(text, *quoted).min(*least),
            _ => self.fixed(),
        }
    }
}

/// Columns of a name, with its quotes.
fn needs(escaped: &str, quoted: bool) -> usize {
    if quoted {
        columns(&said_always(escaped))
    } else {
        columns(escaped)
    }
}

/// A name in this many columns. It is cut before it is quoted, so that both quotes stay.
fn fitted(escaped: &str, quoted: bool, limit: usize) -> String {
    if !quoted {
        return shorten(escaped, limit);
    }
    // Each quote in it takes one more column.
    let mut room = limit.saturating_sub(2);
    loop {
        let text = said_always(&shorten(escaped, room));
        if columns(&text) <= limit || room == 0 {
            return text;
        }
        room = room.saturating_sub(columns(&text) - limit);
    }
}

/// A name short enough for an optional part: in quotes, unless it is a word like any other.
pub(crate) fn short_name(name: &[u8]) -> String {
    name_within(name, 40)
}

/// A name for a sentence that is wrapped, where a longer one would be cut within its quotes.
pub(crate) fn name_in_text(name: &[u8]) -> String {
    name_within(name, 60)
}

fn name_within(name: &[u8], limit: usize) -> String {
    let text = escape(name);
    fitted(&text, !is_bare(&text), limit)
}

#[cfg(test)]
mod tests {
    use super::Line;
    use crate::text::fit::columns;

    #[test]
    fn optional_parts_go_before_paths_are_cut_too_short() {
        let path = "/0123456789".repeat(9);
        let line = Line::new("HOLDER")
            .path(path.as_bytes())
            .maybe(1, ", unimportant")
            .maybe(2, ", more important");
        assert_eq!(
            line.finish(),
            "HOLDER /0123456789/0123456789/[..]/0123456789/0123456789/0123456789/0123456789, unimportant, more important"
        );
        let line = Line::new("HOLDER")
            .words("x".repeat(70))
            .path(path.as_bytes())
            .maybe(1, ", no")
            .maybe(2, ", y");
        assert_eq!(
            line.finish(),
            format!("HOLDER {}/0123456789/[..]/0123456789, y", "x".repeat(70))
        );
    }

    #[test]
    fn too_many_words_are_cut_as_well() {
        let line = Line::sub("file").words("word ".repeat(40)).finish();
        assert!(columns(&line) <= 110 && line.starts_with("  file   word") && line.contains("[..]"));
    }

    #[test]
    fn names_cannot_write_outside_of_their_place() {
        let line = Line::new("EBUSY").name(b"a\n\x1b[2Jb").words(", done").finish();
        assert_eq!(line, "EBUSY  'a\\n\\x1b[2Jb', done");
    }
}
