//! What `ebusy audit` reports: who is in a position to keep container mounts, and what is kept already.

use serde::Serialize;

use super::{Container, Fix, Holder, Process, Propagation, Target, Text, Tier, Timestamp};

/// One look at the whole host.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Audit {
    /// Its name and version.
    pub schema: String,
    /// When it was looked at.
    pub time: Timestamp,
    /// The probe tier.
    #[cfg_attr(test, schemars(extend("enum" = ["tracepoint", "proc"])))]
    pub probe: Tier,
    /// Names of the sections that could not be looked at, or not as a whole; empty where all were.
    #[cfg_attr(test, schemars(extend("items" = {"enum": ["now", "can_pin", "can_leak", "leaked", "detached", "namespaces", "settings", "own"]})))]
    pub blind: Vec<String>,
    /// What was cut short, in words.
    pub gaps: Vec<String>,
    /// How many mounts of containers and of the kubelet there are, and such as match `--target`; copies left out.
    pub watched: u64,
    /// Mount namespaces, those of no process with them.
    pub mount_namespaces: u64,
    /// Mounts that are stuck, or whose umount would be refused.
    pub now: Vec<Now>,
    /// Who has copies that an umount propagates to: a file opened there refuses it.
    pub can_pin: Vec<Group>,
    /// Who has copies that no umount reaches: they keep the file system after it.
    pub can_leak: Vec<Group>,
    /// Mounts whose container is gone.
    pub leaked: Vec<Leaked>,
    /// Mounts that were taken out of their namespace and live on.
    pub detached: Vec<Detached>,
    /// Mount namespaces that no process is in.
    pub namespaces: Vec<KeptNamespace>,
    /// Kernel settings that make it worse.
    pub settings: Vec<Setting>,
    /// What ebusy itself holds; `null` where that could not be measured.
    pub own: Option<Own>,
}

/// A mount that is stuck, or busy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Now {
    /// The mount.
    pub target: Target,
    /// No process of its container is left, but the runtime still has it: it is stuck.
    pub stuck: bool,
    /// Who would make its umount fail.
    pub holders: Vec<Holder>,
    /// References on it and on its propagated copies that have no holder; `null` where they cannot be counted.
    pub unexplained: Option<u64>,
    /// What to do, least harmful first.
    pub fixes: Vec<Fix>,
}

/// All that share what they have: the pods of one owner, a container, a unit, or one process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Workload {
    /// The process that was first in the namespace; `null` where none is in it.
    pub process: Option<Process>,
    /// Processes in its namespaces.
    pub processes: u64,
    /// It is in the namespace of the target itself: another mount there has its place.
    pub same_namespace: bool,
}

/// The copies that a workload has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Group {
    /// Whose they are.
    pub workload: Workload,
    /// Numbers of the mount namespaces that they are in.
    pub mount_namespaces: Vec<u32>,
    /// How many copies.
    pub mounts: u64,
    /// On how many of them something is open now.
    pub in_use: u64,
    /// The first of them: those in use, then by path.
    #[cfg_attr(test, schemars(length(max = 20)))]
    pub copies: Vec<CopiedMount>,
    /// What to do, least harmful first.
    pub fixes: Vec<Fix>,
}

/// A copy of a mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CopiedMount {
    /// What it is a copy of.
    pub target: Target,
    /// Where it is, in its own namespace.
    pub path: Text,
    /// The bytes of `path` in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("contentEncoding" = "base64")))]
    pub path_base64: Option<String>,
    /// Its mount id.
    pub mount_id: u32,
    /// The number of its namespace.
    pub mount_namespace: u32,
    /// Propagation of the mount that it is mounted on: whether an umount reaches it.
    pub propagation: Option<Propagation>,
    /// Who has something open on it.
    pub holders: Vec<Holder>,
}

/// A mount whose container is gone.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Leaked {
    /// `rootfs`, `shm`, `network namespace`, `volume NAME`...
    pub what: String,
    /// The container, as far as the path tells.
    pub container: Option<Container>,
    /// The uid of the pod, where the path has it.
    pub pod_uid: Option<String>,
    /// Where it is: the first is the one that was made, if it is there still.
    pub places: Vec<LeakedPlace>,
    /// What to do, least harmful first.
    pub fixes: Vec<Fix>,
}

/// Where such a mount is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LeakedPlace {
    /// The mount.
    pub mount: Target,
    /// Who is in its namespace; `null` for the host's.
    pub workload: Option<Workload>,
    /// Who has something open on it.
    pub holders: Vec<Holder>,
}

/// A mount that is in no namespace any more.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Detached {
    /// Its mount id.
    pub mount_id: u32,
    /// File system type.
    pub fs_type: Option<String>,
    /// What was mounted.
    pub source: Option<Text>,
    /// `major:minor` of the superblock.
    pub device: Option<String>,
    /// Mounts below it that went with it.
    pub below: u64,
    /// Whether the file system has another mount: then it stays whatever becomes of this one.
    pub mounted_elsewhere: bool,
    /// Bytes that are not freed, for a tmpfs that is mounted nowhere else; unknown otherwise.
    pub bytes: Option<u64>,
    /// The last references.
    pub holders: Vec<Holder>,
    /// References that have no holder; `null` where they cannot be counted.
    pub unexplained: Option<u64>,
    /// What to do, least harmful first.
    pub fixes: Vec<Fix>,
}

/// A mount namespace that no process is in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeptNamespace {
    /// Its number.
    pub number: u32,
    /// Mounts in it.
    pub mounts: u64,
    /// Copies of watched mounts among them.
    pub watched: u64,
    /// What keeps it; empty where that was not found.
    pub kept_by: Vec<Keeper>,
    /// What to do, least harmful first.
    pub fixes: Vec<Fix>,
}

/// What keeps a namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Keeper {
    /// In what way.
    #[cfg_attr(test, schemars(extend("enum" = ["fd", "bind_mount"])))]
    pub kind: String,
    /// Whose descriptor it is.
    pub process: Option<Process>,
    /// The descriptor.
    pub fd: Option<u32>,
    /// Where the bind mount is.
    pub path: Option<Text>,
    /// The namespace of the bind mount.
    pub mount_namespace: Option<u32>,
}

/// A kernel setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setting {
    /// Its name, for `sysctl`.
    pub name: String,
    /// Its value.
    pub value: u64,
    /// How much of it is used, for a limit.
    pub used: Option<u64>,
    /// What follows from it.
    pub why: String,
    /// What to do.
    pub fixes: Vec<Fix>,
}

/// What ebusy itself holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Own {
    /// References on watched mounts, their copies, and detached mounts.
    pub references: u64,
    /// Descriptors of mount namespaces.
    pub namespaces: u64,
}

impl Audit {
    /// The value of `schema`.
    pub const SCHEMA: &str = "ebusy.audit/1";

    /// An audit that has looked at nothing yet.
    #[must_use]
    pub fn of(time: Timestamp, probe: Tier) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            time,
            probe,
            blind: Vec::new(),
            gaps: Vec::new(),
            watched: 0,
            mount_namespaces: 0,
            now: Vec::new(),
            can_pin: Vec::new(),
            can_leak: Vec::new(),
            leaked: Vec::new(),
            detached: Vec::new(),
            namespaces: Vec::new(),
            settings: Vec::new(),
            own: None,
        }
    }

    /// Whether anything was found.
    #[must_use]
    pub fn found(&self) -> bool {
        !(self.now.is_empty()
            && self.can_pin.is_empty()
            && self.can_leak.is_empty()
            && self.leaked.is_empty()
            && self.detached.is_empty()
            && self.namespaces.is_empty()
            && self.settings.is_empty())
            || self.own.is_some_and(|own| own.references + own.namespaces > 0)
    }
}
