//! What is remembered in order, with room for each source: whoever makes noise makes ebusy forget its own.

use std::collections::{BTreeMap, VecDeque};

use tracer_common::HOST;

/// `MOST` in all, and `EACH` of one source that is not the host; the oldest go first, of the source that has most.
#[derive(Debug)]
pub(super) struct Kept<T, const MOST: usize, const EACH: usize> {
    by_source: BTreeMap<u64, VecDeque<T>>,
    len: usize,
}

impl<T, const MOST: usize, const EACH: usize> Default for Kept<T, MOST, EACH> {
    fn default() -> Self {
        Self {
            by_source: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T, const MOST: usize, const EACH: usize> Kept<T, MOST, EACH> {
    /// Remembers one more; what had to be forgotten for it, and of which source.
    pub(super) fn push(&mut self, source: u64, item: T) -> Option<(u64, T)> {
        let of = self.by_source.entry(source).or_default();
        of.push_back(item);
        self.len += 1;
        if source != HOST && of.len() > EACH {
            return self.forget_of(source);
        }
        if self.len <= MOST {
            return None;
        }
        let most = self.by_source.iter().max_by_key(|(_, of)| of.len());
        let source = most.map(|(source, _)| *source)?;
        self.forget_of(source)
    }

    fn forget_of(&mut self, source: u64) -> Option<(u64, T)> {
        let of = self.by_source.get_mut(&source)?;
        let item = of.pop_front()?;
        self.len -= 1;
        if of.is_empty() {
            self.by_source.remove(&source);
        }
        Some((source, item))
    }

    /// Forgets all for which this is not so.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.by_source.retain(|_, of| {
            of.retain(&keep);
            !of.is_empty()
        });
        self.len = self.by_source.values().map(VecDeque::len).sum();
    }

    /// All of them, source by source.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_source.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::HOST;

    use super::Kept;

    #[test]
    fn a_source_forgets_its_own() {
        let mut kept: Kept<u32, 16, 4> = Kept::default();
        for number in 0..4 {
            assert_eq!(kept.push(7, number), None);
            assert_eq!(kept.push(HOST, number), None);
        }
        assert_eq!(kept.push(7, 4), Some((7, 0)));
        assert_eq!(kept.push(8, 0), None);
        // The host has what the others leave, and at least half where they are many.
        for number in 4..11 {
            assert_eq!(kept.push(HOST, number), None);
        }
        assert_eq!(kept.push(9, 0), Some((HOST, 0)));
        assert_eq!(kept.iter().count(), 16);
    }

    #[test]
    fn what_is_not_kept_makes_room() {
        let mut kept: Kept<u32, 8, 4> = Kept::default();
        for number in 0..8 {
            kept.push(HOST, number);
        }
        kept.retain(|number| number % 2 == 0);
        assert_eq!(kept.iter().copied().collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!((0..4).filter_map(|number| kept.push(7, number)).count(), 0);
        assert_eq!(kept.push(HOST, 8), Some((HOST, 0)));
    }
}
