//! Who is in a position to keep container mounts, and what is kept already: pure functions of what was read.
//!
//! [`plan`] tells from the mount tables which mounts are the containers' own and which are copies; [`Plan::roles`] says
//! where references are to be looked for; [`findings`] puts both together.

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
