//! The analysis: a pure function of the record stream. Refused attempts become incidents, snapshots become holders,
//! and each attempt has its books.

mod books;
mod history;
mod holders;
mod track;

use crate::{
    kernel::Snapshot,
    model::{Books, Holder},
};

pub use self::{
    history::History,
    track::{Analyzer, Output, Totals},
};

/// The books and the owners of references of one snapshot: what `who` prints.
#[must_use]
pub fn of_snapshot(snapshot: &Snapshot, history: &History) -> (Books, Vec<Holder>, Vec<Holder>) {
    let mut tracker = holders::Holders::default();
    let number = tracker.add(snapshot, None, history);
    let verdict = books::judge(snapshot, books::Told::default());
    tracker.note(&verdict);
    tracker.settle(&verdict, number, None, &[])
}
