//! The live side: everything that reads the running host and puts it into the stream.

mod appeared;
mod audit;
mod context;
mod device;
mod entering;
mod follow;
mod fuzzed;
mod host;
mod identities;
mod keepers;
mod ledger;
mod left;
mod links;
mod losses;
mod mounts;
mod options;
mod others;
mod overlay;
mod path_text;
mod picture;
mod place;
mod real_path;
mod refused;
mod returned;
mod runtime_state;
mod sampler;
mod session;
mod stack;
mod still_busy;
mod stuck;
mod target;
mod watched;

pub use self::{
    audit::{audit, limits},
    device::device_of,
    host::{Host, enter_host_namespace, own_namespace},
    identities::Identities,
    mounts::{Hidden, Mounted, MountsView, NamespaceMounts},
    options::{Options, Watching},
    place::on_mount,
    real_path::{RealPath, real_path},
    sampler::sample,
    session::Session,
    stuck::{Stuck, stuck},
    target::{describe, mount_key},
};
pub(crate) use self::{fuzzed::fuzzed, runtime_state::by_runtime_state};
