//! The books of one attempt: what the kernel counted, and what the references that were found explain of it.

use crate::{
    kernel::{MountState, Snapshot},
    model::Books,
};

/// What an attempt was refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Address of the mount that `counted` speaks of.
    pub guilty: u64,
    /// Addresses of all mounts that block.
    pub blocking: Vec<u64>,
    /// Only files that are open for writing block, on whatever mount of the file system.
    pub writers: bool,
    /// The books; `explained` and what follows from it are filled in by [`balance`].
    pub books: Books,
}

/// What the kernel told of the attempt itself, where the tier sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether the busy check ran.
    pub busy_check: Option<bool>,
    /// The last mount that it looked at, and its count.
    pub compared: Option<(u64, i32)>,
    /// It was a remount: no reference is counted for that, and only files open for writing refuse it.
    pub remount: bool,
}

impl Told {
    /// The verdict without a snapshot: only if it was the target that was busy, as its count alone says how many
    /// there were; of a slot the child mounts would have to be known.
    pub(super) fn of_target(&self, target: Option<u64>) -> Option<Verdict> {
        let (mount, count) = self.compared?;
        (self.busy_check == Some(true) && !self.remount && Some(mount) == target).then(|| Verdict {
            writers: false,
            guilty: mount,
            blocking: vec![mount],
            books: Books {
                counted: u64::try_from(i64::from(count) - 2).ok(),
                ..Books::default()
            },
        })
    }
}

/// References beyond those that a mount has when nobody uses it, read when no umount is under way: a mount counts
/// itself once. Children are in the count up to Linux 6.16, and are added where they are not (kernel fact 3).
fn extra(state: &MountState, count: i32, snapshot: &Snapshot) -> u64 {
    let children = if snapshot.children_counted {
        0
    } else {
        state.children
    };
    // A capture may say anything.
    children.saturating_add((i64::from(count) - 1).max(0) as u64)
}

/// The same for a slot: one with child mounts is skipped, unless the one child covers its root, which does not count
/// as a use (kernel fact 2).
fn extra_of_slot(state: &MountState, count: i32, snapshot: &Snapshot) -> u64 {
    if state.children > state.covering || state.covering > 1 {
        return 0;
    }
    let covering = if snapshot.children_counted {
        state.covering
    } else {
        0
    };
    (i64::from(count) - 1)
        .max(0)
        .saturating_sub(covering as i64)
        .max(0) as u64
}

/// Which mount was the busy one, and by how much.
#[must_use]
pub(super) fn judge(snapshot: &Snapshot, told: Told) -> Verdict {
    let target = &snapshot.target;
    if told.remount {
        return Verdict {
            guilty: target.address,
            blocking: Vec::new(),
            writers: true,
            books: Books {
                gaps: snapshot.gaps.clone(),
                ..Books::default()
            },
        };
    }
    let now = |state: &MountState, is_target: bool| {
        let count = state.counts[0]?;
        Some(if is_target {
            extra(state, count, snapshot)
        } else {
            extra_of_slot(state, count, snapshot)
        })
    };
    let all: Vec<(&MountState, Option<u64>)> = std::iter::once((target, now(target, true)))
        .chain(snapshot.slots.iter().map(|slot| (slot, now(slot, false))))
        .collect();
    // The kernel looks at the target first, then at the slots in order, and stops at the first that is busy.
    let told_guilty = match (told.busy_check, told.compared) {
        (Some(true), Some((mount, count))) => {
            all.iter()
                .find(|(state, _)| state.address == mount)
                .map(|(state, _)| {
                    // The count inside the attempt has the path walk of the caller, for the target (kernel fact 1).
                    let walk = i32::from(state.address == target.address);
                    let counted = if walk == 1 {
                        (i64::from(count) - 2).max(0) as u64
                    } else {
                        extra_of_slot(state, count, snapshot)
                    };
                    (*state, Some(counted))
                })
        }
        // It ran, and read no count: the target has child mounts.
        (Some(true), None) => Some(all[0]),
        _ => None,
    };
    let guilty = told_guilty
        .or_else(|| {
            all.iter()
                .find(|(_, extra)| extra.is_some_and(|extra| extra > 0))
                .copied()
        })
        .unwrap_or(all[0]);
    let others = all.iter().filter(|(state, _)| state.address != guilty.0.address);
    let remaining = others.map(|(_, extra)| *extra);
    let remaining = remaining.reduce(|sum, extra| Some(sum?.saturating_add(extra?)));
    let remaining = remaining.unwrap_or(Some(0));
    let blocking = all
        .iter()
        .filter(|(state, extra)| {
            state.address == guilty.0.address
                || state.address == target.address
                || extra.is_some_and(|n| n > 0)
        })
        .map(|(state, _)| state.address)
        .collect();
    let [before, after] = guilty.0.counts;
    Verdict {
        guilty: guilty.0.address,
        blocking,
        writers: false,
        books: Books {
            counted: guilty.1,
            remaining,
            changed_during_snapshot: before.and(after).map(|after| Some(after) != before),
            gaps: snapshot.gaps.clone(),
            ..Books::default()
        },
    }
}

/// Whether nothing was busy any more when the snapshot was taken: it came too late for the attempt before it, which
/// was refused for something.
#[must_use]
pub(super) fn came_too_late(snapshot: &Snapshot) -> bool {
    let mut verdict = judge(snapshot, Told::default());
    verdict.books.counted.take() == Some(0) && verdict.books.remaining == Some(0)
}

/// Enters what the holders explain.
pub(super) fn balance(books: &mut Books, explained: u64) {
    books.explained = explained;
    books.unexplained = books.counted.map(|counted| counted.saturating_sub(explained));
    books.overexplained = books
        .counted
        .map_or(0, |counted| explained.saturating_sub(counted));
}

#[cfg(test)]
mod tests {
    use super::{Told, balance, judge};
    use crate::{
        kernel::{MountState, Snapshot},
        model::Books,
    };

    fn state(address: u64, count: i32, children: u64, covering: u64) -> MountState {
        MountState {
            address,
            mount_id: 1,
            namespace: None,
            counts: [Some(count); 2],
            children,
            covering,
        }
    }

    fn snapshot(target: MountState, slots: Vec<MountState>, children_counted: bool) -> Snapshot {
        Snapshot {
            started: 0,
            finished: 0,
            target,
            slots,
            references: Vec::new(),
            candidates: Vec::new(),
            children_counted,
            gaps: Vec::new(),
        }
    }

    #[test]
    fn what_was_not_seen_is_in_the_books() {
        let mut found = snapshot(state(1, 3, 0, 0), Vec::new(), true);
        found.gaps = vec!["a descriptor table changed under the walk".to_owned()];
        for remount in [false, true] {
            let told = Told {
                remount,
                ..Told::default()
            };
            assert_eq!(judge(&found, told).books.gaps, found.gaps);
        }
    }

    #[test]
    fn the_target_comes_first_and_the_rest_remains() {
        let found = snapshot(
            state(1, 3, 0, 0),
            vec![state(2, 2, 0, 0), state(3, 1, 0, 0)],
            true,
        );
        let verdict = judge(&found, Told::default());
        assert_eq!(
            (verdict.guilty, verdict.books.counted, verdict.books.remaining),
            (1, Some(2), Some(1))
        );
        assert_eq!(verdict.blocking, [1, 2]);
    }

    #[test]
    fn an_idle_target_leaves_the_first_busy_slot() {
        let found = snapshot(
            state(1, 1, 0, 0),
            vec![state(2, 1, 0, 0), state(3, 4, 0, 0)],
            true,
        );
        let verdict = judge(&found, Told::default());
        assert_eq!(
            (verdict.guilty, verdict.books.counted, verdict.books.remaining),
            (3, Some(3), Some(0))
        );
    }

    #[test]
    fn children_are_counted_once_on_every_kernel() {
        let before = snapshot(state(1, 3, 1, 0), Vec::new(), true);
        assert_eq!(judge(&before, Told::default()).books.counted, Some(2));
        let since = snapshot(state(1, 2, 1, 0), Vec::new(), false);
        assert_eq!(judge(&since, Told::default()).books.counted, Some(2));
    }

    #[test]
    fn a_slot_with_children_is_skipped_but_a_cover_is_not_a_use() {
        let skipped = snapshot(state(1, 1, 0, 0), vec![state(2, 3, 1, 0)], true);
        assert_eq!(judge(&skipped, Told::default()).books.counted, Some(0));
        let covered = snapshot(state(1, 1, 0, 0), vec![state(2, 3, 1, 1)], true);
        assert_eq!(judge(&covered, Told::default()).books.counted, Some(1));
        let idle = snapshot(state(1, 1, 0, 0), vec![state(2, 2, 1, 1)], true);
        assert_eq!(judge(&idle, Told::default()).books.counted, Some(0));
    }

    #[test]
    fn what_the_kernel_compared_wins_over_what_is_read_later() {
        let found = snapshot(state(1, 1, 0, 0), vec![state(2, 1, 0, 0)], true);
        let told = Told {
            remount: false,
            busy_check: Some(true),
            compared: Some((2, 3)),
        };
        let verdict = judge(&found, told);
        assert_eq!((verdict.guilty, verdict.books.counted), (2, Some(2)));
        let told = Told {
            remount: false,
            busy_check: Some(true),
            compared: Some((1, 4)),
        };
        assert_eq!(judge(&found, told).books.counted, Some(2));
    }

    #[test]
    fn numbers_of_a_capture_are_added_up_to_the_largest() {
        let target = state(1, 2, u64::MAX, 0);
        let mut slots = vec![state(2, i32::MAX, 0, 0), state(3, 1, 0, 0)];
        let books = judge(&snapshot(target, slots.clone(), false), Told::default()).books;
        assert_eq!(
            (books.counted, books.remaining),
            (Some(u64::MAX), Some(i32::MAX as u64 - 1))
        );
        slots[1].counts = [None, None];
        let books = judge(&snapshot(state(1, 2, 0, 0), slots, false), Told::default()).books;
        assert_eq!((books.counted, books.remaining), (Some(1), None));
        let alone = judge(&snapshot(state(1, 2, 0, 0), Vec::new(), false), Told::default()).books;
        assert_eq!(alone.remaining, Some(0));
    }

    #[test]
    fn unexplained_is_never_negative() {
        let mut books = Books {
            counted: Some(2),
            ..Books::default()
        };
        balance(&mut books, 3);
        assert_eq!((books.unexplained, books.overexplained), (Some(0), 1));
        balance(&mut books, 1);
        assert_eq!((books.unexplained, books.overexplained), (Some(1), 0));
        let mut unknown = Books::default();
        balance(&mut unknown, 1);
        assert_eq!((unknown.unexplained, unknown.overexplained), (None, 0));
    }
}
