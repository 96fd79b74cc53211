//! The lists in which containers/storage (CRI-O, Podman) and Docker keep names, images and layers of containers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    metadata::strings,
    spec::{BindMount, propagation},
};

/// One container in a list of containers/storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StorageEntry {
    pub(super) id: String,
    pub(super) layer: Option<String>,
    pub(super) name: Option<String>,
    pub(super) image: Option<String>,
    /// Namespace and name of the pod, which CRI-O writes there.
    pub(super) pod: Option<(String, String)>,
}

/// Parses `overlay-containers/containers.json` or `volatile-containers.json`.
pub(super) fn storage_list(json: &[u8]) -> Vec<StorageEntry> {
    let list: Value = serde_json::from_slice(json).unwrap_or_default();
    list.as_array().into_iter().flatten().filter_map(entry).collect()
}

fn text(value: &Value, key: &str) -> Option<String> {
    value
        .get(key)?
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn entry(value: &Value) -> Option<StorageEntry> {
    // The engine's own notes are JSON inside a JSON string.
    let notes: Value = serde_json::from_str(&text(value, "metadata").unwrap_or_default()).unwrap_or_default();
    let names = value.get("names").and_then(Value::as_array);
    let first_name = names.and_then(|names| names.first()?.as_str().map(str::to_owned));
    let pod = text(&notes, "pod-namespace").zip(text(&notes, "pod-name"));
    Some(StorageEntry {
        id: text(value, "id")?,
        layer: text(value, "layer"),
        // CRI-O's names are made of pod, namespace and attempt; its notes have the name in the pod.
        name: if pod.is_some() {
            text(&notes, "metadata-name")
        } else {
            text(&notes, "name").or(first_name)
        },
        image: text(&notes, "image-name"),
        pod,
    })
}

/// Docker's facts about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DockerEntry {
    pub(super) name: Option<String>,
    pub(super) image: Option<String>,
    /// Labels that the kubelet sets where Docker runs pods.
    pub(super) pod: Option<(String, String)>,
    pub(super) pod_uid: Option<String>,
    pub(super) container_name: Option<String>,
    pub(super) sandbox_id: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) binds: Vec<BindMount>,
}

/// Parses `containers/<id>/config.v2.json`.
pub(super) fn docker_config(json: &[u8]) -> Option<DockerEntry> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let config = value.get("Config").unwrap_or(&Value::Null);
    let labels = config.get("Labels").unwrap_or(&Value::Null);
    let label = |key: &str| text(labels, key);
    value.is_object().then(|| DockerEntry {
        name: text(&value, "Name").map(|name| name.strip_prefix('/').unwrap_or(&name).to_owned()),
        image: text(config, "Image"),
        pod: label("io.kubernetes.pod.namespace").zip(label("io.kubernetes.pod.name")),
        pod_uid: label("io.kubernetes.pod.uid"),
        container_name: label("io.kubernetes.container.name"),
        sandbox_id: label("io.kubernetes.sandbox.id"),
        labels: strings(Some(labels)),
        binds: binds(&value),
    })
}

/// `MountPoints`, without those of volumes.
fn binds(value: &Value) -> Vec<BindMount> {
    let points = value.get("MountPoints").and_then(Value::as_object);
    let points = points.into_iter().flat_map(|points| points.values());
    points
        .filter(|point| point.get("Type").and_then(Value::as_str) == Some("bind"))
        .filter_map(|point| {
            Some(BindMount {
                source: text(point, "Source")?,
                destination: text(point, "Destination"),
                propagation: text(point, "Propagation").and_then(|option| propagation(&option)),
            })
        })
        .collect()
}

/// The parts of the host that Docker was asked to share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DockerHost {
    pub(super) privileged: Option<bool>,
    pub(super) host_pid: Option<bool>,
}

/// Parses `containers/<id>/hostconfig.json`.
pub(super) fn docker_host(json: &[u8]) -> DockerHost {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    let mode = value.get("PidMode").and_then(Value::as_str);
    DockerHost {
        privileged: value.get("Privileged").and_then(Value::as_bool),
        host_pid: mode.map(|mode| mode == "host"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::model::Propagation;

    use super::{DockerEntry, DockerHost, StorageEntry, docker_config, docker_host, storage_list};

    #[test]
    fn podman_and_crio_in_one_list() {
        let json = r#"[
          {"id": "aa", "names": ["web"], "image": "0123", "layer": "l1",
           "metadata": "{\"image-name\":\"docker.io/library/nginx:latest\",\"name\":\"web\",\"created-at\":1}",
           "created": "2026-01-01T00:00:00Z"},
          {"id": "bb", "names": ["k8s_main_web-0_shop_uid_0"], "layer": "l2",
           "metadata": "{\"pod-name\":\"web-0\",\"pod-namespace\":\"shop\",\"metadata-name\":\"main\",\"image-name\":\"i\"}"},
          {"id": "cc", "names": ["plain"], "metadata": "not json"},
          {"names": ["no id"]}, 7
        ]"#;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            storage_list(json.as_bytes()),
            [
                StorageEntry {
                    id: "aa".into(),
                    layer: text("l1"),
                    name: text("web"),
                    image: text("docker.io/library/nginx:latest"),
                    pod: None,
                },
                StorageEntry {
                    id: "bb".into(),
                    layer: text("l2"),
                    name: text("main"),
                    image: text("i"),
                    pod: Some(("shop".into(), "web-0".into())),
                },
                StorageEntry {
                    id: "cc".into(),
                    name: text("plain"),
                    ..StorageEntry::default()
                },
            ]
        );
    }

    #[test]
    fn dockers_own_files() {
        let json = br#"{"StreamConfig":{},"ID":"aa","Name":"/web","Config":{"Image":"nginx:1","Labels":{}},
            "HostsPath":"/x"}"#;
        assert_eq!(
            docker_config(json),
            Some(DockerEntry {
                name: Some("web".into()),
                image: Some("nginx:1".into()),
                ..DockerEntry::default()
            })
        );
        assert_eq!(docker_config(b"[]"), None);
        assert_eq!(
            docker_host(br#"{"Binds":null,"Privileged":true,"PidMode":"host"}"#),
            DockerHost {
                privileged: Some(true),
                host_pid: Some(true)
            }
        );
        assert_eq!(docker_host(br#"{"PidMode":""}"#).host_pid, Some(false));
        assert_eq!((docker_host(b"{}"), docker_host(b"[")), Default::default());
        let json = br#"{"MountPoints": {
            "/host": {"Source": "/", "Destination": "/host", "Type": "bind", "Propagation": "rslave"},
            "/data": {"Source": "/var/lib/docker/volumes/x/_data", "Destination": "/data", "Type": "volume"},
            "/x": 7}}"#;
        let binds = docker_config(json).unwrap().binds;
        assert_eq!(binds.len(), 1);
        assert_eq!(
            (binds[0].source.as_str(), binds[0].propagation),
            ("/", Some(Propagation::Slave))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(json in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (storage_list(&json), docker_config(&json), docker_host(&json));
        }
    }
}
