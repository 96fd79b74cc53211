//! Makes a container from its `config.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    metadata::strings,
    owner::{PodNotes, owner},
    spec::{BindMount, Spec},
};
use crate::model::{Container, HostMount, Text};

/// A container and the keys by which its mounts are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) container: Container,
    pub(super) pod_uid: Option<String>,
    /// Root file system, as the configuration has it: may be relative to the bundle.
    pub(super) root: Option<String>,
    /// Its configured cgroup (`linux.cgroupsPath`).
    pub(super) cgroups_path: Option<String>,
    /// Last component of the path that keeps its network namespace.
    pub(super) network_namespace: Option<String>,
    /// It is the pod's sandbox, which runs nothing but keeps its namespaces.
    pub(super) sandbox: bool,
    /// In other containers of the pod: the id of the sandbox.
    pub(super) sandbox_id: Option<String>,
    /// The kubelet's facts about the pod, as far as the configuration has them.
    pub(super) notes: PodNotes,
}

impl Details {
    /// Names the pod's controller from the known facts; the sandbox may have more.
    pub(super) fn name_owner(&mut self, sandbox: Option<&PodNotes>) {
        let container = &mut self.container;
        let Some(pod) = container.pod.as_deref() else {
            return;
        };
        let mut known = [Some(&self.notes), sandbox].into_iter().flatten();
        container.owner = known.find_map(|notes| owner(notes, pod));
    }
}

/// Directories of the runtimes and of the kubelet: bind mounts from there are their own, and no paths of the host.
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

/// Such directories below any configured root directory of a runtime.
const OWN_PARTS: &[&str] = &["/io.containerd.", "/overlay-containers/", "/kubelet/pods/"];

/// Limit, since every mention of the container carries these.
const MAX_HOST_PATHS: usize = 32;

/// Makes it from a configuration. `namespace` is containerd's, if the bundle is in one; `id` is the directory's name.
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
    let (host_paths, host_mounts) = host_paths_and_mounts(&spec.mounts);
    let container = Container {
        runtime: Some(runtime(notes, namespace).to_owned()),
        id: id.to_owned(),
        // CRI-O calls every sandbox "POD"; containerd gives it no name.
        name: name.filter(|_| !sandbox),
        namespace: namespace.map(str::to_owned),
        owner: None,
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
        host_pid: host_pid(spec),
        host_paths,
        host_mounts,
        unproven: false,
    };
    let network = spec.linux.as_ref().and_then(|linux| linux.namespace("network"));
    let mut found = Details {
        container,
        pod_uid: first(&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]),
        root: note("io.kubernetes.cri-o.MountPoint").or_else(|| spec.root.clone()),
        cgroups_path: spec.linux.as_ref().and_then(|linux| linux.cgroups_path.clone()),
        network_namespace: network
            .and_then(|(_, path)| path.as_deref()?.rsplit_once("netns/"))
            .map(|(_, name)| name.to_owned()),
        sandbox,
        sandbox_id: first(&["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"])
            .filter(|sandbox_id| sandbox_id != id),
        notes: notes_of(notes),
    };
    found.name_owner(None);
    found
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

/// Best effort: runtimes record the effects of "privileged", not the request.
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

/// A namespace that is joined may be the host's: that of a sandbox with the host's processes.
fn host_pid(spec: &Spec) -> Option<bool> {
    match spec.linux.as_ref()?.namespace("pid") {
        None => Some(true),
        Some((_, None)) => Some(false),
        Some((_, Some(_))) => None,
    }
}

/// Bind mounts that are the user's, not the runtime's own: the paths, each once, and the mounts.
pub(super) fn host_paths_and_mounts(binds: &[BindMount]) -> (Vec<Text>, Vec<HostMount>) {
    let own = |source: &str| {
        let mut directories = OWN_DIRECTORIES.iter();
        directories.any(|directory| source.starts_with(directory))
            || OWN_PARTS.iter().any(|part| source.contains(part))
    };
    let mut paths: Vec<Text> = Vec::new();
    let mut mounts = Vec::new();
    for bind in binds
        .iter()
        .filter(|bind| bind.source.starts_with('/') && !own(&bind.source))
    {
        let path = Text::from(bind.source.as_str());
        if mounts.len() == MAX_HOST_PATHS {
            break;
        }
        if !paths.contains(&path) {
            paths.push(path.clone());
        }
        mounts.push(HostMount {
            path,
            destination: bind.destination.as_deref().map(Into::into),
            propagation: bind.propagation,
        });
    }
    (paths, mounts)
}

/// The kubelet's facts about a pod: only CRI-O writes them into the configuration, and all of them into the sandbox's.
pub(super) fn notes_of(notes: &BTreeMap<String, String>) -> PodNotes {
    let object = |key: &str| {
        let json = notes.get(key).map_or("", String::as_str);
        let value: Option<Value> = serde_json::from_str(json).ok();
        strings(value.as_ref())
    };
    PodNotes {
        labels: object("io.kubernetes.cri-o.Labels"),
        annotations: object("io.kubernetes.cri-o.Annotations"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Details, details};
    use crate::{
        identity::{
            owner::PodNotes,
            spec::{parse, samples},
        },
        model::{Container, HostMount, Owner, Propagation},
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
                host_mounts: vec![HostMount {
                    path: "/".into(),
                    destination: Some("/host".into()),
                    propagation: Some(Propagation::Slave),
                }],
                unproven: false,
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
                kind: "Deployment".into(),
                name: "web".into(),
                source: "label pod-template-hash, pod name".into()
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
    fn notes_that_are_no_json() {
        for notes in ["{}", "[1", "7", ""] {
            let json = format!(
                r#"{{"annotations": {{"io.kubernetes.pod.name": "a-x7k2p", "io.kubernetes.cri-o.Labels": "{notes}"}}}}"#
            );
            let found = of(&json, None);
            assert_eq!((found.container.owner, found.notes), (None, PodNotes::default()));
        }
    }
}
