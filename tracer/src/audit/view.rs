//! The state of the host: mounts, namespaces, and processes in them.

use std::collections::HashMap;

use crate::{
    kernel::Mount,
    live::Mounted,
    model::{Container, Process},
};

/// All input of an audit except the references.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The host's namespace (that of the first process) first, then by age; those without a process last.
    pub spaces: Vec<Space>,
    /// Mounts in anonymous namespaces: nobody sees them, but they take part in propagation.
    pub anonymous: Vec<Mount>,
    /// Mounts that were in a namespace and are in none now.
    pub detached: Vec<Mount>,
    /// The namespaces of nsfs mounts, by address: the kernel's `ns_common`.
    pub nsfs: HashMap<u64, u64>,
}

/// A mount namespace.
#[derive(Debug, Clone, Default)]
pub struct Space {
    /// Its address.
    pub address: u64,
    /// The address of its `ns_common`, to which nsfs leads.
    pub common: u64,
    /// Its number.
    pub number: u32,
    /// It is that of the first process.
    pub host: bool,
    /// The process that was in it first.
    pub first: Option<Process>,
    /// The uid of that process's pod, by its cgroup.
    pub pod_uid: Option<String>,
    /// Number of processes in it.
    pub processes: u64,
    /// Parents before children.
    pub mounts: Vec<Mounted>,
}

/// The owner of a mount, and the owner's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// In the usual terms of containers.
    pub what: Option<String>,
    /// Its container.
    pub container: Option<Container>,
    /// The uid of its pod, if the path has it.
    pub pod_uid: Option<String>,
    /// Its state.
    pub state: State,
}

/// The state of a container or pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It has processes.
    Alive,
    /// It has none, but the runtime still has its files: it has not given up yet.
    Stuck,
    /// It has none, and no runtime knows of it.
    Gone,
    /// Unknown.
    #[default]
    Unknown,
}

impl Owner {
    /// True if a container, or one of the same pod, is its owner.
    #[must_use]
    pub fn is(&self, container: Option<&Container>, pod_uid: Option<&str>) -> bool {
        if pod_uid.is_some() && self.pod_uid.as_deref() == pod_uid {
            return true;
        }
        let (Some(own), Some(other)) = (&self.container, container) else {
            return false;
        };
        let pod = |of: &Container| of.pod.clone().zip(of.pod_namespace.clone());
        (!own.id.is_empty() && own.id == other.id) || pod(own).is_some_and(|own| pod(other) == Some(own))
    }
}
