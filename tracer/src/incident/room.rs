//! What joins may cost: each attempt is looked at beside everything that is open, and each tick beside every incident. Who
//! writes a capture, or is on the host, decides how many there are of both: so every record brings room for so many steps,
//! and what has no room is left out and counted. The analysis costs a constant times the records.

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

#[cfg(test)]
mod tests {
    use super::{EACH, MOST, Room};

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
