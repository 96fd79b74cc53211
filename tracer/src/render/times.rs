//! Times and durations for people.

use jiff::{Timestamp as JiffTimestamp, tz::TimeZone};

use crate::model::Timestamp;

const SECOND: i64 = 1_000_000_000;

/// From one time to a later one; 0 if the clock went back in between.
pub(super) fn between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_nanos().saturating_sub(from.as_nanos()).max(0)
}

/// With two or three digits, as precise as anybody needs.
pub(super) fn duration(nanos: i64) -> String {
    let seconds = nanos / SECOND;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if nanos < 1_000_000 {
        "less than 1 ms".to_owned()
    } else if nanos < SECOND {
        format!("{} ms", nanos / 1_000_000)
    } else if seconds < 10 {
        format!("{seconds}.{:02} s", nanos % SECOND / 10_000_000)
    } else if minutes < 2 {
        format!("{seconds} s")
    } else if hours < 2 {
        format!("{minutes} min")
    } else if days < 2 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{days} d {} h", hours % 24)
    }
}

/// `HH:MM:SS`.
pub(super) fn clock(time: Timestamp, zone: &TimeZone) -> String {
    format(time, zone, "%H:%M:%S")
}

/// `HH:MM:SS`, with the date if that is long before `now`.
pub(super) fn moment(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let far = between(time, now) >= 12 * 3600 * SECOND;
    format(time, zone, if far { "%Y-%m-%d %H:%M:%S" } else { "%H:%M:%S" })
}

/// As `strftime` says.
pub(super) fn format(time: Timestamp, zone: &TimeZone, pattern: &str) -> String {
    let time = JiffTimestamp::from_nanosecond(i128::from(time.as_nanos())).unwrap_or_default();
    time.to_zoned(zone.clone()).strftime(pattern).to_string()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{between, duration, moment};
    use crate::model::Timestamp;

    #[test]
    fn durations() {
        for (millis, text) in [
            (0, "less than 1 ms"),
            (340, "340 ms"),
            (2_463, "2.46 s"),
            (59_999, "59 s"),
            (119_000, "119 s"),
            (41 * 60_000, "41 min"),
            (3 * 3_600_000 + 12 * 60_000, "3 h 12 min"),
            (51 * 3_600_000, "2 d 3 h"),
        ] {
            assert_eq!(duration(millis * 1_000_000), text);
        }
    }

    #[test]
    fn dates_only_where_the_time_of_day_misleads() {
        let at = |seconds: i64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let now = at(1_700_000_000);
        assert_eq!(moment(at(1_699_999_000), now, &TimeZone::UTC), "21:56:40");
        assert_eq!(
            moment(at(1_699_000_000), now, &TimeZone::UTC),
            "2023-11-03 08:26:40"
        );
        assert_eq!(between(now, at(0)), 0);
    }

    #[test]
    fn times_at_the_ends_of_the_range() {
        for nanos in [i64::MIN, i64::MAX] {
            let _ = moment(
                Timestamp::from_nanos(nanos),
                Timestamp::from_nanos(-nanos.saturating_add(1)),
                &TimeZone::UTC,
            );
            let _ = duration(nanos);
        }
    }
}
