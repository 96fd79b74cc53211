//! A line of output: a label, and parts that can be cut or left out until it fits.

use super::{
    fit::{COLUMNS, columns, share, shorten},
    sanitize::{escape, printable},
};

/// A name is not cut below that.
const LEAST_NAME: usize = 20;
/// A path is not cut below that.
const LEAST_PATH: usize = 30;

#[derive(Debug, Clone)]
enum Part {
    Words(String),
    Cut {
        text: String,
        least: usize,
    },
    /// The lowest rank is left out first.
    Maybe {
        text: String,
        rank: u8,
    },
}

/// A line in the making. What is given as a name or path is escaped.
#[derive(Debug, Clone)]
pub(super) struct Line {
    label: String,
    parts: Vec<Part>,
}

impl Line {
    /// With a label at the margin.
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: format!("{label:<6} "),
            parts: Vec::new(),
        }
    }

    /// With a label below one at the margin.
    pub(super) fn sub(label: &str) -> Self {
        Self {
            label: format!("  {label:<5}  "),
            parts: Vec::new(),
        }
    }

    /// Words of our own.
    pub(super) fn words(mut self, words: impl Into<String>) -> Self {
        self.parts.push(Part::Words(words.into()));
        self
    }

    /// A name that somebody chose.
    pub(super) fn name(mut self, name: &[u8]) -> Self {
        self.parts.push(Part::Cut {
            text: escape(name),
            least: LEAST_NAME,
        });
        self
    }

    /// Names that are escaped already.
    pub(super) fn name_escaped(mut self, name: String) -> Self {
        self.parts.push(Part::Cut {
            text: name,
            least: LEAST_NAME,
        });
        self
    }

    /// A path that somebody chose.
    pub(super) fn path(mut self, path: &[u8]) -> Self {
        self.parts.push(Part::Cut {
            text: escape(path),
            least: LEAST_PATH,
        });
        self
    }

    /// Left out if there is no room; names in it are cut and escaped already.
    pub(super) fn maybe(mut self, rank: u8, text: impl Into<String>) -> Self {
        self.parts.push(Part::Maybe {
            text: text.into(),
            rank,
        });
        self
    }

    /// Anything else that writes parts.
    pub(super) fn with(self, write: impl FnOnce(Self) -> Self) -> Self {
        write(self)
    }

    /// The line, in at most [`COLUMNS`] columns.
    pub(super) fn finish(mut self) -> String {
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
        let needs: Vec<usize> = self.parts.iter().filter_map(Part::cut).map(columns).collect();
        let left = COLUMNS.saturating_sub(columns(&self.label) + fixed);
        let mut shares = share(&needs, left).into_iter();
        let mut line = self.label.clone();
        for part in &self.parts {
            match part {
                Part::Words(text) | Part::Maybe { text, .. } => line.push_str(text),
                Part::Cut { text, .. } => line.push_str(&shorten(text, shares.next().unwrap_or(0))),
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

    fn cut(&self) -> Option<&str> {
        if let Self::Cut { text, .. } = self {
            Some(text)
        } else {
            None
        }
    }

    fn least(&self) -> usize {
        match self {
            Self::Cut { text, least } => columns(text).min(*least),
            _ => self.fixed(),
        }
    }
}

/// A name short enough for an optional part.
pub(super) fn short_name(name: &[u8]) -> String {
    shorten(&escape(name), 40)
}

#[cfg(test)]
mod tests {
    use super::Line;
    use crate::render::fit::columns;

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
        assert_eq!(line, "EBUSY  a\\n\\x1b[2Jb, done");
    }
}
