//! How to see whether a target is free.

use crate::{identity::mount_claim, model::Target, text::Command};

/// The command whose exit status 0 means free.
pub(crate) fn check_command(target: &Target) -> Option<Command> {
    let claim = mount_claim(target.path.as_bytes());
    let rootfs = claim.is_some_and(|claim| claim.what == "rootfs");
    let container = target.container.as_ref();
    let who = Command::new(&["ebusy", "who"]);
    match container.filter(|_| rootfs) {
        Some(of) if of.short_id() != of.id => who.name(of.short_id().as_bytes()),
        Some(of) if of.namespace.is_some() => {
            let namespace = of.namespace.as_deref().unwrap_or_default();
            who.name(format!("{namespace}/{}", of.id).as_bytes())
        }
        _ => who.path(target.path.as_bytes()),
    }
}
