//! Times as logs write them.

use jiff::{
    Timestamp as Instant,
    civil::{Date, DateTime},
    fmt::rfc2822,
    tz::{Offset, TimeZone},
};
use serde::Serialize;

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
    /// What it does not say itself.
    pub(super) assumed: Option<Assumed>,
}

/// What a log leaves out of its times: the latest that is not in the future is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Assumed {
    /// The day.
    Day,
    /// The year.
    Year,
}

impl Stamp {
    fn whole(time: Timestamp) -> Self {
        Self {
            time,
            whole: true,
            assumed: None,
        }
    }

    fn partial(time: Timestamp) -> Self {
        Self {
            time,
            whole: false,
            assumed: None,
        }
    }
}

/// RFC 3339 and what looks like it: `2025-02-07T11:37:40.033235013Z`, `2025-02-07 11:37:40,03+0100`.
pub(super) fn rfc3339(text: &str, clock: &LogClock) -> Option<Stamp> {
    if let Ok(instant) = text.parse::<Instant>() {
        return Some(Stamp::whole(from_jiff(instant)?));
    }
    let civil: DateTime = text.parse().ok()?;
    local(civil, &clock.zone)
}

/// The same with a zone in a word of its own: `2025-02-07 11:37:40 UTC`, `... +0100`, `... CET`. A zone that is not known
/// makes no time.
pub(super) fn with_zone(text: &str, zone: &str, clock: &LogClock) -> Option<Stamp> {
    let civil: DateTime = text.parse().ok()?;
    let of_host = local(civil, &clock.zone)?;
    if matches!(zone, "UTC" | "GMT" | "Z") {
        return Some(Stamp::whole(local(civil, &TimeZone::UTC)?.time));
    }
    // Names of zones mean different things in different places: that of the host is asked first.
    let instant = Instant::from_nanosecond(i128::from(of_host.time.as_nanos())).ok()?;
    if instant.to_zoned(clock.zone.clone()).strftime("%Z").to_string() == zone {
        return Some(Stamp::whole(of_host.time));
    }
    let hours = ZONES
        .iter()
        .find(|(name, _)| *name == zone)
        .map(|(_, hours)| *hours)?;
    let zone = TimeZone::fixed(Offset::from_hours(hours).ok()?);
    Some(Stamp::whole(local(civil, &zone)?.time))
}

/// Another time in the zone that a word names.
pub(super) fn in_zone(stamp: Stamp, zone: &str, clock: &LogClock) -> Option<Stamp> {
    let civil = civil_of(stamp.time, clock)?;
    with_zone(&civil.to_string(), zone, clock)
}

/// Whether it is the name of a day.
pub(super) fn is_day(word: &str) -> bool {
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&word)
}

/// Whether a word is a zone. Other words in capitals after a time are hosts and levels.
pub(super) fn is_zone(word: &str, clock: &LogClock) -> bool {
    let of_host = || {
        let now = Instant::from_nanosecond(i128::from(clock.now.as_nanos())).ok()?;
        Some(now.to_zoned(clock.zone.clone()).strftime("%Z").to_string())
    };
    matches!(word, "UTC" | "GMT" | "Z")
        || ZONES.iter().any(|(name, _)| *name == word)
        || AMBIGUOUS.contains(&word)
        || of_host().as_deref() == Some(word)
}

/// Zones whose names mean several things: India and Israel, Chicago and Shanghai. Only the host says which.
const AMBIGUOUS: [&str; 5] = ["IST", "CST", "AST", "GST", "SST"];

/// Zones whose names mean one thing in logs.
const ZONES: [(&str, i8); 21] = [
    ("KST", 9),
    ("HKT", 8),
    ("SGT", 8),
    ("WET", 0),
    ("WEST", 1),
    ("BST", 1),
    ("CET", 1),
    ("CEST", 2),
    ("EET", 2),
    ("EEST", 3),
    ("MSK", 3),
    ("JST", 9),
    ("AEST", 10),
    ("AEDT", 11),
    ("EST", -5),
    ("EDT", -4),
    ("CDT", -5),
    ("MST", -7),
    ("MDT", -6),
    ("PST", -8),
    ("PDT", -7),
];

/// `Fri, 07 Feb 2025 11:37:40 +0000`, of mail, HTTP and RFC 1123.
pub(super) fn mail(text: &str) -> Option<Stamp> {
    let instant = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Stamp::whole(from_jiff(instant)?))
}

/// `20170716184837.478`, of LXC, in UTC.
pub(super) fn compact(text: &str) -> Option<Stamp> {
    let (whole, parts) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !digits(whole) || !digits(parts) || parts.len() > 9 {
        return None;
    }
    let civil = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    let nanos: i64 = format!("{parts:0<9}").parse().ok()?;
    let seconds = local(civil, &TimeZone::UTC)?.time.as_nanos();
    Some(Stamp::whole(Timestamp::from_nanos(seconds.checked_add(nanos)?)))
}

/// `11:37:40.123`: the latest such time that is not in the future.
pub(super) fn time_of_day(text: &str, clock: &LogClock) -> Option<Stamp> {
    if text.bytes().filter(|byte| *byte == b':').count() != 2 {
        return None;
    }
    let time: jiff::civil::Time = text.parse().ok()?;
    let today = civil_of(clock.now, clock)?.date();
    [Some(today), today.yesterday().ok()]
        .into_iter()
        .flatten()
        .find_map(|day| {
            let stamp = local(day.to_datetime(time), &clock.zone)?;
            (stamp.time <= clock.now).then_some(Stamp {
                assumed: Some(Assumed::Day),
                ..stamp
            })
        })
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
    Some(Stamp::partial(time))
}

/// `Feb  7 11:37:40`, with parts of seconds or without: in the last year before now. All words given must be used.
pub(super) fn syslog(month: &str, day: &str, time: &str, clock: &LogClock) -> Option<Stamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| *name == month)?;
    without_year(i8::try_from(month + 1).ok()?, day.parse().ok()?, time, clock)
}

/// `1117 10:25:41.898748`, as klog has it; `20241117 10:25:41.898748` of newer glog.
pub(super) fn klog(date: &str, time: &str, clock: &LogClock) -> Option<Stamp> {
    if date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()) {
        let date = Date::strptime("%Y%m%d", date).ok()?;
        return local(date.to_datetime(time.parse().ok()?), &clock.zone);
    }
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
    local(date, &clock.zone)
}

fn without_year(month: i8, day: i8, time: &str, clock: &LogClock) -> Option<Stamp> {
    let time: jiff::civil::Time = time.parse().ok()?;
    let this_year = civil_of(clock.now, clock)?.year();
    // A day more: clocks and zones differ. 29 February is in the last leap year.
    let latest = clock.now.as_nanos().saturating_add(86_400_000_000_000);
    (this_year - 8..=this_year + 1).rev().find_map(|year| {
        let date = Date::new(year, month, day).ok()?.to_datetime(time);
        let stamp = local(date, &clock.zone).filter(|stamp| stamp.time.as_nanos() <= latest)?;
        Some(Stamp {
            assumed: Some(Assumed::Year),
            ..stamp
        })
    })
}

fn civil_of(time: Timestamp, clock: &LogClock) -> Option<DateTime> {
    let instant = Instant::from_nanosecond(i128::from(time.as_nanos())).ok()?;
    Some(clock.zone.to_datetime(instant))
}

fn local(civil: DateTime, zone: &TimeZone) -> Option<Stamp> {
    let instant = zone.to_timestamp(civil).ok()?;
    Some(Stamp::partial(from_jiff(instant)?))
}

fn from_jiff(instant: Instant) -> Option<Timestamp> {
    i64::try_from(instant.as_nanosecond())
        .ok()
        .map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{
        Assumed, LogClock, Stamp, compact, ctime, epoch, is_zone, klog, mail, microseconds, rfc3339,
        since_boot, syslog, time_of_day, with_zone,
    };
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
    fn zones_in_words() {
        let clock = LogClock {
            // Two hours before UTC, by the name of none.
            zone: TimeZone::fixed(jiff::tz::Offset::from_hours(-2).unwrap()),
            ..clock()
        };
        let at = |zone| text(with_zone("2025-02-07 11:37:40", zone, &clock));
        assert_eq!(at("UTC"), "2025-02-07T11:37:40.000000000Z");
        assert_eq!(at("CET"), "2025-02-07T10:37:40.000000000Z");
        assert_eq!(at("-02"), "2025-02-07T13:37:40.000000000Z");
        // India, Israel and Ireland call theirs so.
        assert_eq!(at("IST"), "unknown");
        let zone = |word| is_zone(word, &clock);
        assert!(zone("CET") && zone("IST") && !zone("WARN") && !zone("NUC") && !zone("umount"));
        assert_eq!(
            text(mail("Fri, 07 Feb 2025 12:37:40 +0100")),
            "2025-02-07T11:37:40.000000000Z"
        );
        assert_eq!(
            text(compact("20250207113740.478")),
            "2025-02-07T11:37:40.478000000Z"
        );
        assert_eq!(
            text(klog("20250207", "09:37:40.5", &clock)),
            "2025-02-07T11:37:40.500000000Z"
        );
    }

    #[test]
    fn a_time_without_a_day_is_the_latest_that_is_not_in_the_future() {
        let clock = clock();
        let at = |time| time_of_day(time, &clock).unwrap();
        assert_eq!(text(Some(at("21:20:00"))), "2025-02-19T21:20:00.000000000Z");
        assert_eq!(text(Some(at("21:20:01.5"))), "2025-02-18T21:20:01.500000000Z");
        assert_eq!(at("00:00:00").assumed, Some(Assumed::Day));
        assert_eq!(
            syslog("Feb", "7", "11:37:40", &clock).unwrap().assumed,
            Some(Assumed::Year)
        );
        assert_eq!(rfc3339("2025-02-07T11:37:40Z", &clock).unwrap().assumed, None);
        assert_eq!(time_of_day("11:37", &clock), None);
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
