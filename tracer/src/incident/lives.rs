//! How long a reference was there: found by snapshots, or known by the history.

use std::ops::Bound;

use super::{history::Passing, timeline};
use crate::{
    kernel::Reference,
    model::{Kind, Text},
};

/// What makes two references the same over time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) mount: u64,
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) kind: Kind,
    pub(super) path: Text,
}

impl Key {
    pub(super) fn of(reference: &Reference) -> Self {
        let holder = &reference.holder;
        Self {
            object: reference.object,
            mount: reference.mount,
            pid: holder.process.as_ref().map_or(0, |process| process.pid),
            start: reference.start,
            kind: holder.kind,
            path: holder.path.clone(),
        }
    }

    /// All that are of one object: `Kind::Fd` is the first.
    pub(super) fn all_of(object: u64) -> (Bound<Self>, Bound<Self>) {
        let first = |object| Self {
            object,
            mount: 0,
            pid: 0,
            start: 0,
            kind: Kind::default(),
            path: Text::default(),
        };
        let end = object
            .checked_add(1)
            .map_or(Bound::Unbounded, |next| Bound::Excluded(first(next)));
        (Bound::Included(first(object)), end)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) reference: Reference,
    /// When it began: opened if that was seen, otherwise the attempt after which it was first found.
    pub(super) since: u64,
    /// Start of the last snapshot that found it, or its end if that was seen.
    pub(super) until: u64,
    pub(super) opened: Option<u64>,
    /// Number of the last snapshot with books that found it; 0 before.
    pub(super) seen: u64,
    /// Whether it ever was on a mount that blocks.
    pub(super) blocked: bool,
    /// Its end was seen.
    pub(super) ended: bool,
}

impl Life {
    pub(super) fn times(&self) -> timeline::Life {
        timeline::Life {
            since: self.since,
            until: self.until,
            begun: self.opened.is_some(),
            ended: self.ended,
        }
    }
}

/// A file of the history that was open while an attempt was refused.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub(super) life: Passing,
    /// The attempts that it was there for, as parts of [`Holders::attempts`]: from, to. Usually it is one part.
    pub(super) attempts: Vec<(usize, usize)>,
}

impl Passed {
    /// The attempts that it blocked. Its close may have become known only after they were entered.
    pub(super) fn blocked<'a>(&'a self, all: &'a [(u64, u64)]) -> impl Iterator<Item = u64> + 'a {
        let closed = self.life.closed.unwrap_or(u64::MAX);
        let attempts = self
            .attempts
            .iter()
            .flat_map(|(from, to)| all.get(*from..*to).unwrap_or_default())
            .filter(move |(refused, _)| *refused <= closed);
        attempts.map(|(_, returned)| *returned)
    }

    pub(super) fn times(&self, all: &[(u64, u64)]) -> timeline::Life {
        let closed = self.life.closed;
        let last = self
            .attempts
            .last()
            .and_then(|(_, to)| all.get(to.checked_sub(1)?))
            .map_or(self.life.opened.time, |(_, returned)| *returned);
        timeline::Life {
            since: self.life.opened.time,
            until: closed.unwrap_or(last),
            begun: true,
            ended: closed.is_some(),
        }
    }
}
