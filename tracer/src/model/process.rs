//! A process as it is reported.

use serde::{Deserialize, Serialize};

use super::{Container, Text, Timestamp};

/// A process, with ids of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Process {
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: Option<u32>,
    /// Command name of the thread.
    pub comm: Text,
    /// Path of the executable as the process sees it.
    pub exe: Option<Text>,
    /// Command line, with `--cmdline` only.
    pub cmdline: Option<Vec<Text>>,
    /// Real user id.
    pub uid: Option<u32>,
    /// When it started.
    pub start_time: Option<Timestamp>,
    /// Nearest first.
    pub parents: Vec<Parent>,
    /// Of a caller that only does what it was asked, such as `umount`: the ancestor that asked. Left out where it speaks
    /// for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Box<Requester>>,
    /// Inode number of its mount namespace.
    pub mount_namespace: Option<u32>,
    /// Inode number of its pid namespace.
    pub pid_namespace: Option<u32>,
    /// systemd unit, for what is no container.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
}

/// An ancestor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Parent {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// When it started, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
}

/// Who asked for what a process does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Requester {
    /// Process id on the host.
    pub pid: u32,
    /// Its command name.
    pub comm: Text,
    /// systemd unit, for what is no container.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
}
