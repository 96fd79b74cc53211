//! What is made of a capture: its incidents, by the same analysis as live, chosen, redacted and summed up.

mod analysis;
mod filter;
mod redact;
mod redact_audit;
mod redact_records;
mod summary;
mod workload;

pub use self::{
    analysis::{Analysis, Finding, Seen},
    filter::{Filter, When, glob},
    redact::Redactor,
    summary::{Count, Hour, Recurrence, Summary, Tally},
    workload::{of_container, of_holder, of_target, said_workload},
};
