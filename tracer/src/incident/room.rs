//! What joins may cost: each attempt is looked at beside everything that is open, and each tick beside every incident. Who
//! writes a capture, or is on the host, decides how many there are of both: so every record brings room for so many steps,
//! and what has no room is left out and counted. The analysis costs a constant times the records.

use std::collections::BTreeMap;

use tracer_common::HOST;

/// Room from the beginning, and at the most: 20,000 open files on a mount that is refused 200 times.
const MOST: u64 = 4_000_000;
/// Room that a record brings.
const EACH: u64 = 64;

/// What is left.
#[derive(Debug)]
pub(super) struct Room(u64);

impl Default for Room {
    fn default() -> Self {
        Self(MOST)
    }
}

impl Room {
    /// A record came.
    pub(super) fn record(&mut self) {
        self.0 = (self.0 + EACH).min(MOST);
    }

    /// Whether there is room for so many steps, which is taken then.
    pub(super) fn take(&mut self, steps: u64) -> bool {
        match self.0.checked_sub(steps) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

/// Whether one more of a source has room among those that are there (their sources), of which there may be so many: the
/// host's superuser has half of it for itself, and one of the others an eighth at the most.
pub(crate) fn has_room(there: impl Iterator<Item = u64>, source: u64, most: usize) -> bool {
    let (mut all, mut others, mut own) = (0, 0, 0);
    for of in there {
        all += 1;
        others += usize::from(of != HOST);
        own += usize::from(of == source);
    }
    all < most && (source == HOST || (others < most / 2 && own < most / 8))
}

/// What had no room, by source.
pub(crate) type Skipped = BTreeMap<u64, u64>;

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use tracer_common::HOST;

    use super::{EACH, MOST, Room, has_room};

    #[test]
    fn the_host_has_room_whatever_others_do() {
        let eight = || repeat_n(7, 8);
        assert!(!has_room(eight(), 7, 64) && has_room(eight(), 8, 64));
        let many = || (1..=32).chain(repeat_n(HOST, 31));
        assert!(!has_room(many(), 99, 64) && has_room(many(), HOST, 64));
        assert!(!has_room(many().chain([HOST]), HOST, 64));
    }

    #[test]
    fn room_grows_with_the_records_and_has_an_end() {
        let mut room = Room::default();
        room.record();
        assert!(!room.take(MOST + 1));
        assert!(room.take(MOST) && !room.take(1));
        room.record();
        assert!(room.take(EACH) && !room.take(1));
    }
}
