//! Containers and who made them.

use serde::{Deserialize, Serialize};

use super::{Propagation, Text};

/// As much of a long id as people use.
const SHORT_ID: usize = 12;

/// A container, as far as cgroup and bundle tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Container {
    /// `containerd`, `cri-o`, `docker`, `podman`; `null` where only an id was found.
    pub runtime: Option<String>,
    /// The runtime's id.
    pub id: String,
    /// Container name.
    pub name: Option<String>,
    /// The runtime's own namespace (`k8s.io`, `moby`, `default`).
    pub namespace: Option<String>,
    /// Pod name.
    pub pod: Option<String>,
    /// Kubernetes namespace of the pod.
    pub pod_namespace: Option<String>,
    /// Image.
    pub image: Option<String>,
    /// What created the pod, and how that is known.
    pub owner: Option<Owner>,
    /// Privileged.
    pub privileged: Option<bool>,
    /// Runs in the host's pid namespace.
    pub host_pid: Option<bool>,
    /// Bind-mounted paths of the host.
    pub host_paths: Vec<Text>,
    /// The same with the places where they are mounted.
    #[serde(default)]
    pub host_mounts: Vec<HostMount>,
    /// Only the name of a cgroup says so, which whoever has a cgroup may choose: no record of the runtime agrees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}

/// A bind mount from the host into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostMount {
    /// Path on the host.
    pub path: Text,
    /// Path in the container.
    pub destination: Option<Text>,
    /// `private` (Kubernetes' `None`), `slave` (`HostToContainer`), `shared` (`Bidirectional`) or `unbindable`, as the
    /// container was configured; `null` where it says nothing.
    pub propagation: Option<Propagation>,
}

/// What created a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    /// `DaemonSet`, `ReplicaSet`...
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How that is known.
    pub source: String,
}

impl Container {
    /// The runtime's id, cut if it is one of the long ones.
    #[must_use]
    pub fn short_id(&self) -> &str {
        let long = self.id.len() == 64 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.id.get(..SHORT_ID).filter(|_| long).unwrap_or(&self.id)
    }

    /// Whether both are the same container.
    #[must_use]
    pub fn is_same_as(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| {
            !self.id.is_empty() && self.id == other.id && self.namespace == other.namespace
        })
    }
}
