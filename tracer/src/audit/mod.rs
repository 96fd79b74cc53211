//! Lists processes that could block container umounts, and mounts that are already kept: pure functions of the data
//! read.
//!
//! [`plan`] separates, in the mount tables, the containers' own mounts from copies; [`Plan::roles`] lists the mounts to
//! search for references; [`findings`] combines both.

mod findings;
mod plan;
mod propagation;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;
mod workload;

pub use self::{
    findings::{Evidence, findings},
    plan::{Plan, plan},
    settings::{Limits, settings},
    view::{Owner, Space, State, View},
};
