//! A list of the kernel's, as far as it could be read.

/// What was in a list, or in several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing<C> {
    /// What was read.
    pub items: C,
    /// `false` where it changed under the walk, could not be read to its end, or is too long.
    pub complete: bool,
}

impl<C> Listing<C> {
    pub(super) fn new(items: C, complete: bool) -> Self {
        Self { items, complete }
    }

    /// The items; `complete` stays so only if they are all.
    pub(super) fn joined_to(self, complete: &mut bool) -> C {
        *complete &= self.complete;
        self.items
    }

    /// The items; that some are missing is noted.
    pub(super) fn or_note(self, gaps: &mut Vec<String>, what: &str) -> C {
        note(gaps, self.complete, what);
        self.items
    }
}

/// Notes what could not be looked at whole, once.
pub(super) fn note(gaps: &mut Vec<String>, complete: bool, what: &str) {
    if !complete && gaps.iter().all(|gap| gap != what) {
        gaps.push(what.to_owned());
    }
}
