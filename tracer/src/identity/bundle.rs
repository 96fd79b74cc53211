//! From a container's `config.json` to the container.

use std::collections::BTreeMap;

use serde_json::Value;

use super::spec::Spec;
use crate::model::{Container, Owner};

/// A container and what its mounts can be found by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) container: Container,
    pub(super) pod_uid: Option<String>,
    /// Root file system, as the configuration has it: may be relative to the bundle.
    pub(super) root: Option<String>,
    /// Last component of the path that keeps its network namespace.
    pub(super) network_namespace: Option<String>,
    /// It is the pod's own container, which runs nothing but keeps its namespaces.
    pub(super) sandbox: bool,
}

/// Directories of the runtimes and of the kubelet: a bind mount from there is their own doing, no path of the host.
const OWN_DIRECTORIES: &[&str] = &[
    "/run/containerd/",
    "/var/run/containerd/",
    "/var/lib/containerd/",
    "/run/k3s/containerd/",
    "/var/lib/rancher/k3s/agent/containerd/",
    "/run/docker/",
    "/var/run/docker/",
    "/var/lib/docker/",
    "/run/containers/",
    "/var/run/containers/",
    "/var/lib/containers/",
    "/run/crio/",
    "/var/lib/nerdctl/",
    "/var/lib/kubelet/pods/",
];

/// More than that is no longer worth carrying with every mention of the container.
const MAX_HOST_PATHS: usize = 32;

/// What a configuration says. `namespace` is containerd's, where the bundle lies in one; `id` is the directory's.
pub(super) fn details(spec: &Spec, namespace: Option<&str>, id: &str) -> Details {
    let notes = &spec.annotations;
    let note = |key: &str| notes.get(key).filter(|value| !value.is_empty()).cloned();
    let first = |keys: &[&str]| keys.iter().find_map(|key| note(key));
    let pod = first(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    let container_type = first(&[
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri-o.ContainerType",
    ])
    .unwrap_or_default();
    let sandbox = container_type == "sandbox";
    let name = first(&[
        "io.kubernetes.cri.container-name",
        "io.kubernetes.container.name",
        "nerdctl/name",
    ]);
    let container = Container {
        runtime: Some(runtime(notes, namespace).to_owned()),
        id: id.to_owned(),
        // CRI-O calls every sandbox "POD"; containerd gives it no name.
        name: name.filter(|_| !sandbox),
        namespace: namespace.map(str::to_owned),
        owner: pod.as_deref().and_then(|pod| owner(&labels(notes), pod)),
        pod,
        pod_namespace: first(&[
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.pod.namespace",
        ]),
        image: first(&[
            "io.kubernetes.cri.image-name",
            "io.kubernetes.cri-o.ImageName",
            "io.kubernetes.cri-o.UserRequestedImage",
        ]),
        privileged: privileged(spec),
        host_pid: spec.linux.as_ref().map(|linux| linux.namespace("pid").is_none()),
        host_paths: host_paths(spec).into_iter().map(Into::into).collect(),
    };
    let network = spec.linux.as_ref().and_then(|linux| linux.namespace("network"));
    Details {
        container,
        pod_uid: first(&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]),
        root: note("io.kubernetes.cri-o.MountPoint").or_else(|| spec.root.clone()),
        network_namespace: network
            .and_then(|(_, path)| path.as_deref()?.rsplit_once("netns/"))
            .map(|(_, name)| name.to_owned()),
        sandbox,
    }
}

fn runtime(notes: &BTreeMap<String, String>, namespace: Option<&str>) -> &'static str {
    match (notes.get("io.container.manager").map(String::as_str), namespace) {
        (Some("cri-o"), _) => "cri-o",
        (Some("libpod"), _) => "podman",
        (_, Some("moby" | "plugins.moby")) => "docker",
        (_, Some(_)) => "containerd",
        // A bundle outside containerd without the manager's note: CRI-O before 1.19, or Podman.
        (_, None)
            if notes
                .keys()
                .any(|key| key.starts_with("io.kubernetes.cri-o.ContainerType")) =>
        {
            "cri-o"
        }
        (_, None) => "podman",
    }
}

/// Best effort: runtimes write down what "privileged" does, not that it was asked for.
fn privileged(spec: &Spec) -> Option<bool> {
    let noted = [
        "io.kubernetes.cri-o.PrivilegedRuntime",
        "io.podman.annotations.privileged",
    ];
    if let Some(value) = noted.iter().find_map(|key| spec.annotations.get(*key)) {
        return Some(value.eq_ignore_ascii_case("true"));
    }
    let all = ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"];
    let bounding = spec.capabilities.as_ref()?;
    let powerful = all.iter().all(|wanted| bounding.iter().any(|has| has == wanted));
    Some(powerful && !spec.linux.as_ref()?.masks_paths)
}

fn host_paths(spec: &Spec) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for mount in &spec.mounts {
        let own = OWN_DIRECTORIES
            .iter()
            .any(|directory| mount.source.starts_with(directory));
        if !own
            && mount.source.starts_with('/')
            && !paths.contains(&mount.source)
            && paths.len() < MAX_HOST_PATHS
        {
            paths.push(mount.source.clone());
        }
    }
    paths
}

/// The labels of the pod, which only CRI-O writes into the configuration.
fn labels(notes: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let json = notes.get("io.kubernetes.cri-o.Labels").map_or("", String::as_str);
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// What created a pod, from labels that its controller sets and the form of its name. A name alone proves nothing:
/// without labels, nothing is said.
fn owner(labels: &BTreeMap<String, String>, pod: &str) -> Option<Owner> {
    let (stem, suffix) = pod.rsplit_once('-')?;
    let generated = suffix.len() == 5;
    let (kind, name) = if let Some(hash) = labels.get("pod-template-hash") {
        (
            "ReplicaSet",
            stem.strip_suffix(hash.as_str())
                .filter(|_| generated)
                .map(|_| stem)?,
        )
    } else if labels.contains_key("statefulset.kubernetes.io/pod-name") {
        ("StatefulSet", stem)
    } else if let Some(job) = labels
        .get("batch.kubernetes.io/job-name")
        .or_else(|| labels.get("job-name"))
    {
        ("Job", job.as_str())
    } else if labels.contains_key("controller-revision-hash") && generated {
        ("DaemonSet", stem)
    } else {
        return None;
    };
    Some(Owner {
        kind: kind.to_owned(),
        name: name.to_owned(),
        source: "pod labels and name".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Details, details};
    use crate::{
        identity::spec::{parse, samples},
        model::{Container, Owner},
    };

    fn of(json: &str, namespace: Option<&str>) -> Details {
        details(&parse(json.as_bytes()).unwrap(), namespace, "9c41")
    }

    #[test]
    fn a_container_of_containerds_cri_plugin() {
        let found = of(samples::CRI, Some("k8s.io"));
        assert_eq!(
            found.container,
            Container {
                runtime: Some("containerd".into()),
                id: "9c41".into(),
                name: Some("agent".into()),
                namespace: Some("k8s.io".into()),
                pod: Some("node-agent-x7k2p".into()),
                pod_namespace: Some("monitoring".into()),
                image: Some("registry.example/agent:1.2".into()),
                owner: None,
                privileged: Some(false),
                host_pid: Some(false),
                host_paths: vec!["/".into()],
            }
        );
        assert_eq!(
            found.pod_uid.as_deref(),
            Some("0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e")
        );
        assert_eq!((found.root.as_deref(), found.sandbox), (Some("rootfs"), false));
    }

    #[test]
    fn a_container_of_crio() {
        let found = of(samples::CRIO, None);
        let container = found.container;
        assert_eq!(container.runtime.as_deref(), Some("cri-o"));
        assert_eq!(container.name.as_deref(), Some("main"));
        assert_eq!(
            (container.pod_namespace.as_deref(), container.host_pid),
            (Some("shop"), Some(true))
        );
        assert_eq!(container.image.as_deref(), Some("quay.io/app/web:3"));
        assert_eq!(
            container.owner,
            Some(Owner {
                kind: "ReplicaSet".into(),
                name: "web-7d9c5b8f6".into(),
                source: "pod labels and name".into()
            })
        );
        assert_eq!(
            found.root.as_deref(),
            Some("/var/lib/containers/storage/overlay/aaaa/merged")
        );
        assert_eq!(found.network_namespace.as_deref(), Some("0a1b"));
        assert_eq!(container.privileged, None);
    }

    #[test]
    fn a_container_of_podman() {
        let container = of(samples::PODMAN, None).container;
        assert_eq!(container.runtime.as_deref(), Some("podman"));
        assert_eq!((container.pod, container.privileged), (None, Some(true)));
        assert_eq!(container.host_paths, ["/srv/data".into()]);
    }

    #[test]
    fn a_sandbox_has_no_name_of_its_own() {
        let json = r#"{"annotations": {"io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.container.name": "POD", "io.kubernetes.cri.sandbox-name": "web-0"},
            "linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/cni-1"}]}}"#;
        let found = of(json, Some("k8s.io"));
        assert!(found.sandbox);
        assert_eq!(
            (found.container.name, found.container.pod.as_deref()),
            (None, Some("web-0"))
        );
        assert_eq!(found.network_namespace.as_deref(), Some("cni-1"));
    }

    #[test]
    fn owners_from_labels() {
        let pod = |pod: &str, labels: &str| {
            let labels = labels.replace('"', "\\\"");
            let json = format!(
                r#"{{"annotations": {{"io.kubernetes.pod.name": "{pod}", "io.kubernetes.cri-o.Labels": "{labels}"}}}}"#
            );
            of(&json, None)
                .container
                .owner
                .map(|owner| (owner.kind, owner.name))
        };
        let some = |kind: &str, name: &str| Some((kind.to_owned(), name.to_owned()));
        assert_eq!(
            pod("agent-x7k2p", r#"{"controller-revision-hash":"1"}"#),
            some("DaemonSet", "agent")
        );
        assert_eq!(
            pod(
                "db-0",
                r#"{"controller-revision-hash":"1","statefulset.kubernetes.io/pod-name":"db-0"}"#
            ),
            some("StatefulSet", "db")
        );
        assert_eq!(pod("once-abcde", r#"{"job-name":"once"}"#), some("Job", "once"));
        assert_eq!(pod("agent-x7k2p", "{}"), None);
        assert_eq!(pod("agent-x7k2p", "[1"), None);
        assert_eq!(pod("agent", r#"{"pod-template-hash":""}"#), None);
    }
}
