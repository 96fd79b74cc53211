//! The analysis: a pure function of the record stream. Refused attempts become incidents, snapshots become holders,
//! and each attempt has its books.

mod attempts;
mod books;
mod detached;
mod entered;
mod history;
mod holders;
mod kept;
mod lives;
mod noise;
mod open;
mod operations;
mod replay;
mod room;
mod run;
mod slow;
mod timeline;
mod told;
mod totals;
mod track;
mod waits;

use crate::{kernel::Snapshot, model::Target};

pub use self::{
    history::History,
    holders::Settled,
    replay::replay,
    run::Output,
    timeline::{Attempt, Span, Timeline},
    totals::Totals,
    track::Analyzer,
};

pub(crate) use self::{
    room::{Skipped, has_room},
    told::{MNT_DETACH, flag_names},
};

/// The books and the owners of references of one snapshot: what `who` prints.
#[must_use]
pub fn of_snapshot(snapshot: &Snapshot, history: &History) -> Settled {
    let mut tracker = holders::Holders::default();
    let number = tracker.add(snapshot, None, history, true);
    let verdict = books::judge(snapshot, books::Told::default());
    tracker.note(&verdict, snapshot);
    tracker.settle(&verdict, Some(number), None, &[], &Target::default())
}
