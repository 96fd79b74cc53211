//! Mounts that are stuck already: the container's mounts are there, its processes are not.

use super::{mounts::MountsView, runtime_state::by_runtime_state, target::describe};
use crate::{
    identity::Containers,
    kernel::{Kernel, Mount},
    model::{Since, Target},
    watchdog::{self, Step},
};

/// A mount of a container that has no process left.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// The mount.
    pub mount: Mount,
    /// What it is.
    pub target: Target,
    /// Since when, at the latest, if that is known.
    pub since: Option<Since>,
}

/// Finds them among the mounts of the host's namespace and of those that hold a runtime's own mounts.
#[must_use]
pub fn stuck(kernel: Kernel<'_>, containers: &Containers, view: &MountsView) -> Vec<Stuck> {
    let _step = watchdog::within(Step::Runtimes, &[]);
    let mounts: Vec<_> = view
        .originals_first()
        .filter_map(|(namespace, mounted)| Some((namespace, mounted, mounted.container(containers)?)))
        .collect();
    let alive = containers.containers_alive();
    let mut found: Vec<Stuck> = Vec::new();
    let mut copies: Vec<u64> = Vec::new();
    for (namespace, mounted, container) in mounts {
        if container.id.is_empty()
            || alive.contains_key(&container.id)
            || copies.contains(&mounted.mount.address)
        {
            continue;
        }
        // Copies in other namespaces are not mounts of their own to be freed.
        let same = kernel.mounts_of_superblock(mounted.mount.superblock).items;
        copies.extend(same);
        let target = describe(kernel, containers, view, namespace, mounted);
        found.push(Stuck {
            mount: mounted.mount.clone(),
            since: by_runtime_state(containers, target.path.as_bytes()),
            target,
        });
    }
    found
}
