//! The live side: everything that reads the running host and puts it into the stream.

mod host;
mod identities;
mod mounts;
mod sampler;
mod session;
mod stuck;
mod target;
mod watched;

pub use self::{
    host::{Host, boot_nanos, enter_host_namespace},
    identities::Identities,
    mounts::{Mounted, MountsView, NamespaceMounts},
    sampler::sample,
    session::{Options, Session, Sink, Watching},
    stuck::{Stuck, stuck},
    target::{describe, mount_key},
};
