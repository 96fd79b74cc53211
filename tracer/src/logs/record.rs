//! A line of a log, taken apart.

use super::stamp::Stamp;

/// A line without what is around its message.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) stamp: Option<Stamp>,
    /// The program that logged it.
    pub(super) source: Option<String>,
    pub(super) message: Vec<u8>,
    /// Whether the line began like one: else it continues the one before.
    pub(super) headed: bool,
}

impl Record {
    pub(super) fn note(&mut self, stamp: Option<Stamp>) {
        if let Some(stamp) = stamp
            && (stamp.whole || self.stamp.is_none_or(|known| !known.whole))
        {
            self.stamp = Some(stamp);
        }
    }

    pub(super) fn from(&mut self, source: &str) {
        if !source.is_empty() && source.len() <= 64 {
            self.source = Some(source.to_owned());
        }
    }
}
