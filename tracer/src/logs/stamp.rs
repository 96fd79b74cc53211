//! Times as logs write them.

use jiff::{
    Timestamp as Instant,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use crate::model::Timestamp;

/// What is needed to read times that are not whole: those without a year, without a zone, or since boot.
#[derive(Debug, Clone)]
pub struct LogClock {
    /// The log has nothing from after this.
    pub now: Timestamp,
    /// When the host of the log booted; without it, times since boot stay unknown.
    pub boot: Option<Timestamp>,
    /// The zone of times without one.
    pub zone: TimeZone,
}

impl LogClock {
    /// Of this host. Times since boot leave out how long it was suspended (`CLOCK_MONOTONIC`).
    #[must_use]
    pub fn of_host() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let nanos = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let now = nanos(ClockId::Realtime);
        Self {
            now: Timestamp::from_nanos(now),
            boot: Some(Timestamp::from_nanos(now - nanos(ClockId::Monotonic))),
            zone: crate::model::zone(),
        }
    }
}

/// A time and how much it can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) time: Timestamp,
    /// With a date and a zone: not made whole by us.
    pub(super) whole: bool,
}

impl Stamp {
    fn whole(time: Timestamp) -> Self {
        Self { time, whole: true }
    }
}

/// RFC 3339 and what looks like it: `2025-02-07T11:37:40.033235013Z`, `2025-02-07 11:37:40,03+0100`.
pub(super) fn rfc3339(text: &str, clock: &LogClock) -> Option<Stamp> {
    if let Ok(instant) = text.parse::<Instant>() {
        return Some(Stamp::whole(from_jiff(instant)?));
    }
    let civil: DateTime = text.parse().ok()?;
    local(civil, clock)
}

/// Of a number since the epoch, in whatever unit makes it a time of this century.
pub(super) fn epoch(number: f64) -> Option<Stamp> {
    let seconds = [1.0, 1e3, 1e6, 1e9]
        .into_iter()
        .map(|unit| number / unit)
        .find(|seconds| (9.0e8..4.0e9).contains(seconds))?;
    // No more digits than a float has.
    Some(Stamp::whole(Timestamp::from_nanos(
        (seconds * 1e6).round() as i64 * 1000,
    )))
}

/// Of microseconds since the epoch, as the journal has them.
pub(super) fn microseconds(text: &str) -> Option<Stamp> {
    let nanos = text.parse::<i64>().ok()?.checked_mul(1000)?;
    Some(Stamp::whole(Timestamp::from_nanos(nanos)))
}

/// Of seconds since boot.
pub(super) fn since_boot(text: &str, clock: &LogClock) -> Option<Stamp> {
    let seconds: f64 = text.trim().parse().ok()?;
    let nanos = (seconds.is_finite() && (0.0..4.0e9).contains(&seconds)).then_some((seconds * 1e9) as i64)?;
    let time = Timestamp::from_nanos(clock.boot?.as_nanos().checked_add(nanos)?);
    Some(Stamp { time, whole: false })
}

/// `Feb  7 11:37:40`, with parts of seconds or without: in the last year before now. All words given must be used.
pub(super) fn syslog(month: &str, day: &str, time: &str, clock: &LogClock) -> Option<Stamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| *name == month)?;
    without_year(i8::try_from(month + 1).ok()?, day.parse().ok()?, time, clock)
}

/// `1117 10:25:41.898748`, as klog has it.
pub(super) fn klog(date: &str, time: &str, clock: &LogClock) -> Option<Stamp> {
    if date.len() != 4 {
        return None;
    }
    without_year(
        date.get(..2)?.parse().ok()?,
        date.get(2..)?.parse().ok()?,
        time,
        clock,
    )
}

/// `Fri Feb  7 11:37:40 2025`, as ctime(3) has it: the words after the name of the day.
pub(super) fn ctime(words: [&str; 4], clock: &LogClock) -> Option<Stamp> {
    let [month, day, time, year] = words;
    let same_day = syslog(month, day, time, clock)?;
    let date = civil_of(same_day.time, clock)?;
    let year: i16 = year.parse().ok()?;
    let date = Date::new(year, date.month(), date.day())
        .ok()?
        .to_datetime(date.time());
    local(date, clock)
}

fn without_year(month: i8, day: i8, time: &str, clock: &LogClock) -> Option<Stamp> {
    let time: jiff::civil::Time = time.parse().ok()?;
    let this_year = civil_of(clock.now, clock)?.year();
    // A day more: clocks and zones differ. 29 February is in the last leap year.
    let latest = clock.now.as_nanos().saturating_add(86_400_000_000_000);
    (this_year - 8..=this_year + 1).rev().find_map(|year| {
        let date = Date::new(year, month, day).ok()?.to_datetime(time);
        local(date, clock).filter(|stamp| stamp.time.as_nanos() <= latest)
    })
}

fn civil_of(time: Timestamp, clock: &LogClock) -> Option<DateTime> {
    let instant = Instant::from_nanosecond(i128::from(time.as_nanos())).ok()?;
    Some(clock.zone.to_datetime(instant))
}

fn local(civil: DateTime, clock: &LogClock) -> Option<Stamp> {
    let instant = clock.zone.to_timestamp(civil).ok()?;
    Some(Stamp {
        time: from_jiff(instant)?,
        whole: false,
    })
}

fn from_jiff(instant: Instant) -> Option<Timestamp> {
    i64::try_from(instant.as_nanosecond())
        .ok()
        .map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{LogClock, Stamp, ctime, epoch, klog, microseconds, rfc3339, since_boot, syslog};
    use crate::model::Timestamp;

    fn clock() -> LogClock {
        LogClock {
            now: Timestamp::from_nanos(1_740_000_000_000_000_000),
            boot: Some(Timestamp::from_nanos(1_739_000_000_000_000_000)),
            zone: TimeZone::UTC,
        }
    }

    fn text(stamp: Option<Stamp>) -> String {
        stamp.map_or_else(|| "unknown".to_owned(), |stamp| stamp.time.to_string())
    }

    #[test]
    fn every_way_to_write_a_time() {
        let clock = clock();
        for written in [
            "2025-02-07T11:37:40.033235Z",
            "2025-02-07T12:37:40.033235+01:00",
            "2025-02-07T12:37:40,033235+0100",
            "2025-02-07 11:37:40.033235",
        ] {
            assert_eq!(text(rfc3339(written, &clock)), "2025-02-07T11:37:40.033235000Z");
        }
        assert_eq!(
            text(syslog("Feb", "7", "11:37:40", &clock)),
            "2025-02-07T11:37:40.000000000Z"
        );
        // Not in the future: the year before.
        assert_eq!(
            text(syslog("Dec", "31", "23:59:59.5", &clock)),
            "2024-12-31T23:59:59.500000000Z"
        );
        assert_eq!(
            text(syslog("Feb", "29", "00:00:00", &clock)),
            "2024-02-29T00:00:00.000000000Z"
        );
        assert_eq!(
            text(klog("1117", "10:25:41.898748", &clock)),
            "2024-11-17T10:25:41.898748000Z"
        );
        assert_eq!(
            text(ctime(["Feb", "7", "11:37:40", "2023"], &clock)),
            "2023-02-07T11:37:40.000000000Z"
        );
        assert_eq!(
            text(since_boot("  447.193907", &clock)),
            "2025-02-08T07:40:47.193907000Z"
        );
        assert_eq!(
            text(microseconds("1738928260033235")),
            "2025-02-07T11:37:40.033235000Z"
        );
        assert_eq!(text(epoch(1_738_928_260.0)), text(epoch(1_738_928_260_000.0)));
    }

    #[test]
    fn what_is_no_time() {
        let clock = clock();
        let none = [
            rfc3339("2025-13-07T11:37:40Z", &clock),
            syslog("Feb", "30", "11:37:40", &clock),
            syslog("Foo", "7", "11:37:40", &clock),
            syslog("Feb", "7", "25:00:00", &clock),
            klog("11117", "10:25:41", &clock),
            since_boot("nan", &clock),
            since_boot("-1", &clock),
            epoch(f64::INFINITY),
            epoch(7.0),
            microseconds("99999999999999999999"),
        ];
        assert!(none.iter().all(Option::is_none), "{none:?}");
    }
}
