//! From the kernel's clock since boot to the time of day.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

const SAMPLES: usize = 8;

/// Maps `CLOCK_BOOTTIME` to the wall clock by one offset for a whole run, so that times within a report agree with each
/// other even if the wall clock is stepped meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootClock {
    /// Wall clock minus time since boot, in nanoseconds.
    pub offset_nanos: i64,
}

impl BootClock {
    /// Reads both clocks several times and keeps the pair that was read closest together: a sample during which
    /// this thread was preempted would be off by that time.
    #[must_use]
    pub fn sample() -> Self {
        let samples = (0..SAMPLES).map(|_| {
            let before = nanos(ClockId::Boottime);
            let wall = nanos(ClockId::Realtime);
            let after = nanos(ClockId::Boottime);
            (before, wall, after)
        });
        Self {
            offset_nanos: best_offset(samples).unwrap_or(0),
        }
    }

    /// The wall clock's reading at a time since boot.
    #[must_use]
    pub fn timestamp(self, boot_nanos: u64) -> Timestamp {
        let boot = i64::try_from(boot_nanos).unwrap_or(i64::MAX);
        Timestamp::from_nanos(self.offset_nanos.saturating_add(boot))
    }

    /// Now, on the same scale.
    #[must_use]
    pub fn now(self) -> Timestamp {
        Timestamp::from_nanos(self.offset_nanos.saturating_add(nanos(ClockId::Boottime)))
    }
}

/// The boot clock, ns: the clock of all kernel records.
#[must_use]
pub fn boot_nanos() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The offset of the sample with the least time between its two outer readings.
fn best_offset(samples: impl Iterator<Item = (i64, i64, i64)>) -> Option<i64> {
    let (before, wall, after) = samples.min_by_key(|(before, _, after)| after.saturating_sub(*before))?;
    let middle = before.saturating_add(after.saturating_sub(before) / 2);
    Some(wall.saturating_sub(middle))
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::{BootClock, best_offset};

    #[test]
    fn the_sample_read_closest_together_wins() {
        let samples = [
            (0, 1_000_900, 1_000),
            (2_000, 1_002_010, 2_020),
            (5_000, 1_009_000, 9_000),
        ];
        assert_eq!(best_offset(samples.into_iter()), Some(1_000_000));
        assert_eq!(best_offset(std::iter::empty()), None);
    }

    #[test]
    fn times_since_boot_become_times_of_day() {
        let clock = BootClock {
            offset_nanos: 1_700_000_000_000_000_000,
        };
        assert_eq!(clock.timestamp(5).to_string(), "2023-11-14T22:13:20.000000005Z");
        // A hostile reading must not overflow.
        let _ = clock.timestamp(u64::MAX);
    }

    #[test]
    fn the_real_clocks_agree_with_the_system_time() {
        let clock = BootClock::sample();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let apart = i128::from(clock.now().as_nanos()) - now.as_nanos() as i128;
        assert!(apart.abs() < 1_000_000_000, "{apart}");
    }
}
