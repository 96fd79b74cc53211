//! What the session asks of a follower.

use crate::{
    incident::Skipped,
    live::{context::Context, refused::Asked, returned::Returned},
    stream::RawOperation,
    watchdog::Step,
};

/// Most need only some of it.
pub(in crate::live) trait Follower {
    /// What the watchdog calls its work.
    fn step(&self) -> Step;

    /// An umount has returned; its own record is written to the stream after that.
    fn umount(&mut self, _context: &mut Context, _umount: &Returned<'_>) {}

    /// Another system call was refused, or was not and should have been.
    fn operation(&mut self, _context: &mut Context, _asked: &Asked, _raw: &RawOperation) {}

    /// All records of a source that were there have been handed out.
    fn drained(&mut self, _context: &mut Context, _source: u64) {}

    /// Time has passed; at the `end` for the last time.
    fn tick(&mut self, _context: &mut Context, _end: bool) {}

    /// Whether nothing that had happened at `asked` (boot clock, ns) waits for its look.
    fn has_caught_up(&self, _context: &Context, _asked: u64) -> bool {
        true
    }

    /// What there was no room for, by source, and what that is called.
    fn skipped(&self) -> Option<(&'static str, &Skipped)> {
        None
    }
}
