//! The four things that an incident can be about, and how they look in JSON.

use serde::{Deserialize, Serialize, Serializer};

use super::{Holder, Operation, Reason, Retry, Since, Slow, Text};

/// What an incident is about.
#[derive(Debug, Clone, PartialEq)]
pub enum IncidentBody {
    /// An umount that was refused.
    Umount(RefusedUmount),
    /// Another call that was refused, or left undone what it was to do.
    Operation(RefusedOperation),
    /// A mount that was detached (`MNT_DETACH`) and lives on: nothing was refused.
    Detached,
    /// An umount that takes long, whatever it returns.
    Slow(Slow),
}

/// An umount that was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedUmount {
    /// It was of the caller's own root directory: that remounts it read-only, which files open for writing refuse.
    pub of_own_root: bool,
    /// By whom, and how often.
    pub refusals: Refusals,
    /// Suspected, not seen by reference.
    pub candidates: Vec<Holder>,
    /// Since when it has failed, at the latest; `None` where nothing before the first attempt is known.
    pub since: Option<Since>,
    /// `None` where nobody is known to come back.
    pub retry: Option<Retry>,
}

/// A call other than umount2 that was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedOperation {
    /// What was to be done.
    pub operation: Operation,
    /// What the kernel refuses for.
    pub reason: Reason,
    /// By whom, and how often.
    pub refusals: Refusals,
}

/// The attempts that were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// Their number.
    pub attempts: u64,
    /// Runs of attempts with less than a second between them.
    pub bursts: u64,
    /// Everybody who tried; most often first.
    pub callers: Vec<Caller>,
}

/// Somebody who tried to unmount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Caller {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// Refused attempts by it.
    pub attempts: u64,
}

/// What an incident is about, by its name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IncidentOperation {
    /// Unmount, and it was refused: umount2.
    #[serde(rename = "umount2")]
    Umount,
    /// A mount that was detached (`MNT_DETACH`) and lives on.
    Detach,
    /// An umount that takes long, whatever it returns.
    SlowUmount,
    /// Another call.
    #[serde(untagged)]
    Other(Operation),
}

impl IncidentBody {
    /// The one of the four, by its name in JSON.
    #[must_use]
    pub fn operation(&self) -> IncidentOperation {
        match self {
            Self::Umount(_) => IncidentOperation::Umount,
            Self::Operation(refused) => IncidentOperation::Other(refused.operation),
            Self::Detached => IncidentOperation::Detach,
            Self::Slow(_) => IncidentOperation::SlowUmount,
        }
    }

    /// The attempts, where something was refused.
    #[must_use]
    pub fn refusals(&self) -> Option<&Refusals> {
        match self {
            Self::Umount(RefusedUmount { refusals, .. })
            | Self::Operation(RefusedOperation { refusals, .. }) => Some(refusals),
            Self::Detached | Self::Slow(_) => None,
        }
    }
}

impl Serialize for IncidentBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let refusals = self.refusals();
        let (reason, candidates, since, retry, slow) = match self {
            Self::Umount(RefusedUmount {
                of_own_root,
                refusals: _,
                candidates,
                since,
                retry,
            }) => {
                let reason = of_own_root.then_some(Reason::OpenFiles);
                (
                    reason,
                    candidates.as_slice(),
                    since.as_ref(),
                    retry.as_ref(),
                    None,
                )
            }
            Self::Operation(RefusedOperation {
                operation: _,
                reason,
                refusals: _,
            }) => (Some(*reason), [].as_slice(), None, None, None),
            Self::Detached => (None, [].as_slice(), None, None, None),
            Self::Slow(slow) => (None, [].as_slice(), None, None, Some(slow)),
        };
        let body = Written {
            operation: self.operation(),
            reason,
            attempts: refusals.map_or(0, |refusals| refusals.attempts),
            bursts: refusals.map_or(0, |refusals| refusals.bursts),
            callers: refusals.map_or(&[], |refusals| &refusals.callers),
            candidates,
            slow,
            since,
            retry,
        };
        body.serialize(serializer)
    }
}

/// In JSON the four have the same fields: whoever sums up attempts, or asks for candidates, need not know which it is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Written<'a> {
    /// What was refused; or `detach` (a mount was detached and lives on), `slow_umount` (an umount2 takes long).
    operation: IncidentOperation,
    /// Why, if that is not for references to a mount.
    reason: Option<Reason>,
    /// Number of refused attempts.
    attempts: u64,
    /// Runs of attempts with less than a second between them.
    bursts: u64,
    /// Everybody who tried, by process.
    callers: &'a [Caller],
    /// Suspected, not seen by reference.
    candidates: &'a [Holder],
    /// Of an umount2 that takes long: where the time goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    slow: Option<&'a Slow>,
    /// Since when its umount has failed, at the latest; left out where nothing before `started` is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a Since>,
    /// When it is tried again; left out where nobody is known to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<&'a Retry>,
}

#[cfg(test)]
impl schemars::JsonSchema for IncidentBody {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Written::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}
