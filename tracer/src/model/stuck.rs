//! Since when a mount has been stuck, and when its umount is tried again.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Since when its umount has failed, at the latest: it may have failed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Since {
    /// It had failed by then.
    pub time: Timestamp,
    /// How that is known.
    pub source: SinceSource,
}

/// How it is known since when a mount is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SinceSource {
    /// A refused attempt was seen then.
    Attempt,
    /// A line of the log that was given says so.
    Log,
    /// By then runc had removed the container's state, which the shim asks for before it unmounts.
    RuntimeState,
}

impl SinceSource {
    /// In words, behind the time.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Attempt => "an attempt",
            Self::Log => "the log",
            Self::RuntimeState => "its state in runc was removed by then",
        }
    }
}

/// Takes what is known of it earlier.
pub fn earlier(known: &mut Option<Since>, other: Option<Since>) {
    if let Some(other) = other
        && known.as_ref().is_none_or(|known| other.time < known.time)
    {
        *known = Some(other);
    }
}

/// When its umount is tried again, by whoever tried so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Retry {
    /// Who tries.
    pub by: String,
    /// How that is known.
    pub source: RetrySource,
    /// The latest pauses between its attempts, s: the latest one last. Attempts less than a second apart are one.
    #[cfg_attr(test, schemars(inner(range(min = 0))))]
    pub pauses: Vec<f64>,
    /// When it is expected by these pauses; `null` by the rule.
    pub next: Option<Timestamp>,
    /// The longest pause by the rule of that program, s, if it has one.
    pub within: Option<u64>,
}

/// How it is known when somebody tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetrySource {
    /// By the pauses between attempts on this mount that were seen.
    Observed,
    /// By what the program does by rule.
    Rule,
}

#[cfg(test)]
mod tests {
    use super::{Since, SinceSource, earlier};
    use crate::model::Timestamp;

    #[test]
    fn the_earliest_is_kept() {
        let since = |nanos, source| {
            Some(Since {
                time: Timestamp::from_nanos(nanos),
                source,
            })
        };
        let mut known = None;
        earlier(&mut known, None);
        assert_eq!(known, None);
        earlier(&mut known, since(20, SinceSource::Attempt));
        earlier(&mut known, since(30, SinceSource::Log));
        assert_eq!(known, since(20, SinceSource::Attempt));
        earlier(&mut known, since(10, SinceSource::RuntimeState));
        assert_eq!(known, since(10, SinceSource::RuntimeState));
    }
}
