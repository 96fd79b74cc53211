//! The live side: everything that reads the running host and puts it into the stream.

mod host;
mod identities;
mod mounts;
mod options;
mod sampler;
mod session;
mod stuck;
mod target;
mod watched;

pub use self::{
    host::{Host, boot_nanos, enter_host_namespace, own_namespace},
    identities::Identities,
    mounts::{Mounted, MountsView, NamespaceMounts},
    options::{Options, Sink, Watching},
    sampler::sample,
    session::Session,
    stuck::{Stuck, stuck},
    target::{describe, mount_key},
};
