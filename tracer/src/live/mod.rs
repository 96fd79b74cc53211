//! The live side: everything that reads the running host and puts it into the stream.

mod audit;
mod device;
mod fuzzed;
mod host;
mod identities;
mod keepers;
mod ledger;
mod links;
mod mounts;
mod options;
mod overlay;
mod path_text;
mod place;
mod refused;
mod runtime_state;
mod sampler;
mod session;
mod stack;
mod stuck;
mod target;
mod watched;

pub use self::{
    audit::{audit, limits},
    host::{Host, enter_host_namespace, own_namespace},
    identities::Identities,
    links::follow as follow_links,
    mounts::{Hidden, Mounted, MountsView, NamespaceMounts},
    options::{Options, Watching},
    sampler::sample,
    session::Session,
    stuck::{Stuck, stuck},
    target::{describe, mount_key},
};
pub(crate) use self::{fuzzed::fuzzed, runtime_state::by_runtime_state};
