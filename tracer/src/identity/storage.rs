//! The lists in which containers/storage (CRI-O, Podman) and Docker keep names, images and layers of containers.

use serde_json::Value;

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

/// What Docker knows of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DockerEntry {
    pub(super) name: Option<String>,
    pub(super) image: Option<String>,
    /// Labels that the kubelet sets where Docker runs pods.
    pub(super) pod: Option<(String, String)>,
    pub(super) pod_uid: Option<String>,
    pub(super) container_name: Option<String>,
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
    })
}

/// Whether Docker was told to make the container privileged: `containers/<id>/hostconfig.json`.
pub(super) fn docker_privileged(json: &[u8]) -> Option<bool> {
    let value: Value = serde_json::from_slice(json).ok()?;
    value.get("Privileged")?.as_bool()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DockerEntry, StorageEntry, docker_config, docker_privileged, storage_list};

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
            docker_privileged(br#"{"Binds":null,"Privileged":true}"#),
            Some(true)
        );
        assert_eq!(docker_privileged(b"{}"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(json in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (storage_list(&json), docker_config(&json), docker_privileged(&json));
        }
    }
}
