//! What a holder or a target is part of, in few words: what somebody would look up or fix as a whole.

use crate::{
    model::{Container, Holder, Target},
    text::{is_bare, said},
};

/// What stands before the name of a workload.
const SORTS: [&str; 9] = [
    "container",
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "Node",
    "pod",
    "ReplicaSet",
    "StatefulSet",
];

/// Any of them in a sentence: in quotes, unless it is a word, or a word after what it is.
#[must_use]
pub fn said_workload(name: &str) -> String {
    match name.split_once(' ') {
        Some((sort, name)) if SORTS.contains(&sort) && is_bare(name) => format!("{sort} {name}"),
        _ => said(name.as_bytes()),
    }
}

/// `DaemonSet monitoring/node-agent`, `pod ci/build-1`, `container web` or `container 9c41d0e7a2f4`.
#[must_use]
pub fn of_container(container: &Container) -> String {
    let namespace = container.pod_namespace.as_deref();
    let within = |name: &str| namespace.map_or_else(|| name.to_owned(), |space| format!("{space}/{name}"));
    match (&container.owner, &container.pod, &container.name) {
        (Some(owner), _, _) => format!("{} {}", owner.kind, within(&owner.name)),
        (None, Some(pod), _) => format!("pod {}", within(pod)),
        (None, None, Some(name)) => format!("container {name}"),
        (None, None, None) => format!("container {}", container.id.get(..12).unwrap_or(&container.id)),
    }
}

/// The same for a holder; a unit or a command name where it is in no container, the kind where no process has it.
#[must_use]
pub fn of_holder(holder: &Holder) -> String {
    let Some(process) = &holder.process else {
        return match &holder.held_by {
            Some(what) => format!("{}: {}", holder.kind.name(), what.to_str_lossy()),
            None => holder.kind.name().to_owned(),
        };
    };
    match (&process.container, &process.unit) {
        (Some(container), _) => of_container(container),
        (None, Some(unit)) => unit.clone(),
        (None, None) => process.comm.to_str_lossy().into_owned(),
    }
}

/// The same for a target: its path where it is of no container.
#[must_use]
pub fn of_target(target: &Target) -> String {
    target
        .container
        .as_ref()
        .map_or_else(|| target.path.to_str_lossy().into_owned(), of_container)
}
