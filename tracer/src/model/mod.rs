//! What ebusy reports: the objects of its JSON, schema 1, which the text output is rendered from as well.
//!
//! Unknown is `None` (JSON `null`), never a made-up value. Names and paths are bytes in the kernel; see [`Text`].

#[macro_use]
mod named;

mod audit;
mod container;
mod entered;
mod fix;
mod holder;
mod incident;
mod incident_body;
mod kind;
mod operation;
mod outcome;
mod process;
mod propagation;
#[cfg(test)]
pub(crate) mod samples;
mod slow;
mod stuck;
mod target;
mod text;
mod tier;
mod time;
mod who;

pub(crate) use self::time::{keep_zone, zone};
pub use self::{
    audit::{
        Audit, CopiedMount, Detached, Group, Keeper, KeptNamespace, Leaked, LeakedPlace, Now, Own, Setting,
        Workload,
    },
    container::{Container, HostMount, Owner},
    entered::{Entered, WayIn},
    fix::{Fix, FixAction},
    holder::{Access, EvidenceSource, Holder, Sharer, TakesAlong, Through},
    incident::{Incident, Noise},
    incident_body::{Caller, IncidentBody, IncidentOperation, Refusals, RefusedOperation, RefusedUmount},
    kind::{AIO_REQUEST, Kind, UNIX_GARBAGE, URING_REQUEST},
    operation::{Operation, Reason},
    outcome::Outcome,
    process::{Parent, Process, Requester},
    propagation::Propagation,
    slow::{Phase, Slow, Wait, WaitsFor},
    stuck::{Retry, RetrySource, Since, SinceSource, earlier},
    target::{Books, Target},
    text::Text,
    tier::Tier,
    time::Timestamp,
    who::Who,
};
