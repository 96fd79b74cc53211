//! The parts of an OCI `config.json` that identify a container, read leniently.
//!
//! The file is the runtime's, but parts of its contents come from the creator of the container. Every field is read on
//! its own: one of the wrong type is left out, and fields before a break in the file are kept.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use crate::model::Propagation;

/// The fields that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) root: Option<String>,
    pub(super) mounts: Vec<BindMount>,
    pub(super) linux: Option<Linux>,
    /// The bounding set of the process.
    pub(super) capabilities: Option<Vec<String>>,
}

/// A bind mount of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BindMount {
    pub(super) source: String,
    pub(super) destination: Option<String>,
    /// `private`, `slave`, `shared` or `unbindable`, if the configuration has it.
    pub(super) propagation: Option<Propagation>,
}

/// The `linux` object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Linux {
    /// Type and path.
    pub(super) namespaces: Vec<(String, Option<String>)>,
    pub(super) masks_paths: bool,
    pub(super) cgroups_path: Option<String>,
}

impl Linux {
    pub(super) fn namespace(&self, kind: &str) -> Option<&(String, Option<String>)> {
        self.namespaces.iter().find(|(of, _)| of == kind)
    }
}

/// Parses a `config.json`; `None` if it has none of the fields.
pub(super) fn parse(json: &[u8]) -> Option<Spec> {
    let mut fields = Fields::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // An error ends the reading; the fields before it were complete.
    let _ = deserializer.deserialize_map(&mut fields);
    fields.any.then_some(fields.spec)
}

#[derive(Default)]
struct Fields {
    spec: Spec,
    any: bool,
}

impl<'de> Visitor<'de> for &mut Fields {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an OCI configuration")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "annotations" => self.spec.annotations = annotations(&map.next_value()?),
                "root" => self.spec.root = text(map.next_value::<Value>()?.get("path")),
                "mounts" => self.spec.mounts = binds(&map.next_value()?),
                "linux" => self.spec.linux = Some(linux(&map.next_value()?)),
                "process" => self.spec.capabilities = map.next_value::<Process>()?.bounding(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            }
            self.any = true;
        }
        Ok(())
    }
}

/// The arguments and environment in `process` can be long and are not needed.
#[derive(Deserialize)]
struct Process {
    #[serde(default)]
    capabilities: Value,
}

impl Process {
    fn bounding(&self) -> Option<Vec<String>> {
        let set = self.capabilities.get("bounding")?.as_array()?;
        Some(
            set.iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
        )
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn annotations(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn binds(value: &Value) -> Vec<BindMount> {
    fn options(mount: &Value) -> impl DoubleEndedIterator<Item = &str> {
        let options = mount.get("options").and_then(Value::as_array);
        options
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter_map(Value::as_str)
    }
    let is_bind = |mount: &&Value| {
        mount.get("type").and_then(Value::as_str) == Some("bind")
            || options(mount).any(|option| matches!(option, "bind" | "rbind"))
    };
    let mounts = value.as_array().into_iter().flatten();
    mounts
        .filter(is_bind)
        .filter_map(|mount| {
            Some(BindMount {
                source: text(mount.get("source"))?,
                destination: text(mount.get("destination")),
                // The last one counts, as for mount(8).
                propagation: options(mount).rev().find_map(propagation),
            })
        })
        .collect()
}

pub(super) fn propagation(option: &str) -> Option<Propagation> {
    Some(match option {
        "private" | "rprivate" => Propagation::Private,
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        "unbindable" | "runbindable" => Propagation::Unbindable,
        _ => return None,
    })
}

fn linux(value: &Value) -> Linux {
    let namespaces = value
        .get("namespaces")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let masked = value.get("maskedPaths").and_then(Value::as_array);
    Linux {
        namespaces: namespaces
            .filter_map(|namespace| Some((text(namespace.get("type"))?, text(namespace.get("path")))))
            .collect(),
        masks_paths: masked.is_some_and(|paths| !paths.is_empty()),
        cgroups_path: text(value.get("cgroupsPath")),
    }
}

#[cfg(test)]
pub(super) mod samples {
    /// As containerd's CRI plugin writes it, shortened.
    pub(in crate::identity) const CRI: &str = r#"{
  "ociVersion": "1.1.0",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/agent"], "env": ["PATH=/bin"], "cwd": "/",
    "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"]}},
  "root": {"path": "rootfs"},
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
    {"destination": "/etc/hosts", "type": "bind",
      "source": "/var/lib/kubelet/pods/0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e/etc-hosts", "options": ["rbind", "rw"]},
    {"destination": "/dev/shm", "type": "bind",
      "source": "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/77/shm", "options": ["rbind"]},
    {"destination": "/host", "type": "bind", "source": "/", "options": ["rbind", "rslave", "ro"]}
  ],
  "annotations": {
    "io.kubernetes.cri.container-name": "agent",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.image-name": "registry.example/agent:1.2",
    "io.kubernetes.cri.sandbox-id": "7777777777777777777777777777777777777777777777777777777777777777",
    "io.kubernetes.cri.sandbox-name": "node-agent-x7k2p",
    "io.kubernetes.cri.sandbox-namespace": "monitoring",
    "io.kubernetes.cri.sandbox-uid": "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e"
  },
  "linux": {
    "cgroupsPath": "kubepods-besteffort-pod0f3c5b1e_7f55_4d0f_9f0a_3c1f5a2b4d6e.slice:cri-containerd:9c41",
    "namespaces": [{"type": "ipc", "path": "/proc/700/ns/ipc"}, {"type": "mount"}, {"type": "pid"}],
    "maskedPaths": ["/proc/kcore"]
  }
}"#;

    /// As CRI-O writes it, shortened.
    pub(in crate::identity) const CRIO: &str = r#"{
  "root": {"path": "/var/lib/containers/storage/overlay/aaaa/merged"},
  "annotations": {
    "io.container.manager": "cri-o",
    "io.kubernetes.container.name": "main",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.ImageName": "quay.io/app/web:3",
    "io.kubernetes.cri-o.Labels":
      "{\"app\":\"web\",\"pod-template-hash\":\"7d9c5b8f6\",\"io.kubernetes.pod.name\":\"web-7d9c5b8f6-qx2vl\"}",
    "io.kubernetes.cri-o.MountPoint": "/var/lib/containers/storage/overlay/aaaa/merged",
    "io.kubernetes.pod.name": "web-7d9c5b8f6-qx2vl",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.uid": "11111111-2222-3333-4444-555555555555"
  },
  "linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/var/run/netns/0a1b"}]}
}"#;

    /// As Podman writes it, shortened.
    pub(in crate::identity) const PODMAN: &str = r#"{
  "process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"]}},
  "root": {"path": "/var/lib/containers/storage/overlay/bbbb/merged"},
  "mounts": [{"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rprivate"]}],
  "annotations": {"io.container.manager": "libpod", "org.opencontainers.image.stopSignal": "15"},
  "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
}"#;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::model::Propagation;

    use super::{parse, samples};

    #[test]
    fn fields() {
        let spec = parse(samples::CRI.as_bytes()).unwrap();
        assert_eq!(spec.root.as_deref(), Some("rootfs"));
        assert_eq!(spec.annotations["io.kubernetes.cri.container-name"], "agent");
        assert_eq!(spec.mounts.len(), 3);
        assert_eq!(spec.mounts[2].source, "/");
        assert_eq!(
            (spec.mounts[2].destination.as_deref(), spec.mounts[2].propagation),
            (Some("/host"), Some(Propagation::Slave))
        );
        assert_eq!(spec.mounts[1].propagation, None);
        let linux = spec.linux.unwrap();
        assert!(linux.namespace("pid").is_some() && linux.namespace("network").is_none());
        assert_eq!(
            linux.namespace("ipc").unwrap().1.as_deref(),
            Some("/proc/700/ns/ipc")
        );
        assert!(linux.masks_paths);
        assert_eq!(spec.capabilities.unwrap(), ["CAP_CHOWN", "CAP_KILL"]);
    }

    #[test]
    fn what_came_before_a_break_is_kept() {
        let end = samples::CRI.find("\"linux\"").unwrap();
        let spec = parse(&samples::CRI.as_bytes()[..end]).unwrap();
        assert_eq!(
            spec.annotations["io.kubernetes.cri.sandbox-name"],
            "node-agent-x7k2p"
        );
        assert_eq!(spec.linux, None);
        let end = samples::CRI.find("sandbox-name").unwrap();
        let spec = parse(&samples::CRI.as_bytes()[..end]).unwrap();
        assert!(spec.annotations.is_empty() && !spec.mounts.is_empty());
    }

    #[test]
    fn fields_of_the_wrong_type_are_left_out() {
        let json = br#"{"root": 7, "mounts": {"a": 1}, "linux": [], "process": {"capabilities": 3},
            "annotations": {"a": 1, "io.kubernetes.cri.container-name": "x"}}"#;
        let spec = parse(json).unwrap();
        assert_eq!(spec.annotations.len(), 1);
        assert_eq!((spec.root, spec.mounts.len(), spec.capabilities), (None, 0, None));
    }

    #[test]
    fn what_is_no_configuration() {
        for json in [&b""[..], b"[]", b"null", b"{", b"{\"a\":1}", b"\0\0\0"] {
            assert_eq!(parse(json), None, "{}", json.escape_ascii());
        }
    }

    #[test]
    fn nesting_without_end_does_not_exhaust_the_stack() {
        let mut json = b"{\"annotations\":".to_vec();
        json.resize(json.len() + 1_000_000, b'[');
        assert_eq!(parse(&json), None);
        let mut json = b"{\"x\":".to_vec();
        json.resize(json.len() + 1_000_000, b'[');
        assert_eq!(parse(&json), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(json in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&json);
        }

        #[test]
        fn no_truncation_or_change_makes_it_panic(end in 0..samples::CRI.len(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut json = samples::CRI.as_bytes()[..end].to_vec();
            if !json.is_empty() {
                let at = at.index(json.len());
                json[at] = byte;
            }
            let _ = parse(&json);
        }
    }
}
