//! Points in time: nanoseconds since the Unix epoch, RFC 3339 in JSON.

use std::{fmt, sync::OnceLock};

use jiff::{Timestamp as JiffTimestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

static ZONE: OnceLock<TimeZone> = OnceLock::new();

/// The time zone of this host.
pub(crate) fn zone() -> TimeZone {
    // The library looks for a change in its file now and then.
    ZONE.get().cloned().unwrap_or_else(TimeZone::system)
}

/// It is as it is now, for whoever opens no more files.
pub(crate) fn keep_zone() {
    ZONE.get_or_init(TimeZone::system);
}

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the epoch.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The wall clock now.
    #[must_use]
    pub fn now() -> Self {
        Self(i64::try_from(JiffTimestamp::now().as_nanosecond()).unwrap_or_default())
    }

    /// To the second, as file names have it: `20261124T190159Z`.
    #[must_use]
    pub fn compact(self) -> String {
        self.to_jiff().strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub fn as_nanos(self) -> i64 {
        self.0
    }

    /// `HH:MM:SS` in the local time zone.
    #[must_use]
    pub fn local_clock(self) -> String {
        self.to_jiff().to_zoned(zone()).strftime("%H:%M:%S").to_string()
    }

    /// The same, with the day where that is not the one of `now`.
    #[must_use]
    pub fn local_moment(self, now: Self) -> String {
        let day = |time: Self| time.to_jiff().to_zoned(zone()).date();
        let pattern = if day(self) == day(now) {
            "%H:%M:%S"
        } else {
            "%Y-%m-%d %H:%M:%S"
        };
        self.to_jiff().to_zoned(zone()).strftime(pattern).to_string()
    }

    fn to_jiff(self) -> JiffTimestamp {
        // The range of i64 nanoseconds (1677 to 2262) is within that of jiff.
        JiffTimestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", self.to_jiff())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: JiffTimestamp = text.parse().map_err(D::Error::custom)?;
        i64::try_from(time.as_nanosecond())
            .map(Self)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn json_is_rfc_3339_with_nanoseconds_and_comes_back() {
        let time = Timestamp::from_nanos(1_700_000_000_000_000_001);
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20.000000001Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
    }
}
