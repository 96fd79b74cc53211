//! What the engines above the runtime know of a container, beside its bundle.

use std::path::{Path, PathBuf};

use super::{
    bundle::{Details, host_paths_and_mounts, notes_of},
    bundles::Bundles,
    cgroup::{is_containerd_name, is_full_id},
    files::{below, read_config},
    metadata::{self, Metadata},
    owner::PodNotes,
    places::Keeper,
    spec,
    storage::{DockerEntry, StorageEntry, docker_config, docker_host},
};
use crate::model::Container;

impl Bundles {
    /// Adds what the engine knows to what the bundle in this directory says.
    pub(super) fn complete(&self, found: &mut Details, directory: &Path) {
        match found.container.runtime.as_deref() {
            Some("docker") => {
                let root = found.root.as_deref().and_then(docker_root).map(PathBuf::from);
                let roots = root.into_iter().chain(self.places(Keeper::Docker));
                for root in roots {
                    if self.complete_from_docker(found, &root) {
                        break;
                    }
                }
            }
            Some("cri-o" | "podman") => {
                // <root>/overlay-containers/<id>/userdata
                let own = directory.ancestors().nth(3).map(Path::to_path_buf);
                let roots: Vec<PathBuf> = own.into_iter().chain(self.places(Keeper::Storage)).collect();
                for root in &roots {
                    let list = self.storage_entries(root);
                    if let Some(listed) = list.iter().find(|entry| entry.id == found.container.id) {
                        complete_from_storage(&mut found.container, listed);
                        break;
                    }
                }
                let sandbox = found.sandbox_id.as_deref().filter(|id| is_full_id(id));
                let notes =
                    sandbox.and_then(|id| roots.iter().find_map(|root| self.sandbox_in_storage(root, id)));
                found.name_owner(notes.as_ref());
            }
            Some("containerd") => self.complete_from_containerd(found, directory),
            _ => {}
        }
    }

    /// What the configuration of a sandbox of CRI-O says of its pod.
    fn sandbox_in_storage(&self, root: &Path, id: &str) -> Option<PodNotes> {
        let bundle = root.join("overlay-containers").join(id).join("userdata");
        let (_, json) = read_config(&below(&self.host, &bundle).join("config.json"))?;
        Some(notes_of(&spec::parse(&json)?.annotations))
    }

    fn complete_from_containerd(&self, found: &mut Details, bundle: &Path) {
        let Some(namespace) = found.container.namespace.clone() else {
            return;
        };
        let Some(root) = metadata::root_of(&self.host, bundle) else {
            return;
        };
        if !(metadata::is_usual_root(&root) || self.is_safe(&root)) {
            return;
        }
        let read = |id: &str| metadata::read(&below(&self.host, &root), &namespace, id);
        let Some(known) = read(&found.container.id) else {
            return;
        };
        complete_from_metadata(found, &known);
        let sandbox = if found.sandbox {
            Some(known)
        } else {
            let id = found.sandbox_id.as_deref().filter(|id| is_containerd_name(id));
            id.and_then(read)
        };
        found.name_owner(sandbox.map(Metadata::into_notes).as_ref());
    }

    /// Whether Docker has files of the container below this data directory.
    pub(super) fn complete_from_docker(&self, found: &mut Details, root: &Path) -> bool {
        let directory = |id: &str| below(&self.host, root).join("containers").join(id);
        let config = |id: &str| {
            let (_, json) = read_config(&directory(id).join("config.v2.json"))?;
            docker_config(&json)
        };
        let Some(entry) = config(&found.container.id) else {
            return false;
        };
        let sandbox = entry
            .sandbox_id
            .as_deref()
            .filter(|id| is_full_id(id))
            .and_then(config);
        let host = read_config(&directory(&found.container.id).join("hostconfig.json"));
        let host = host.map(|(_, json)| docker_host(&json)).unwrap_or_default();
        complete_from_entry(found, entry);
        found.container.privileged = host.privileged.or(found.container.privileged);
        found.container.host_pid = host.host_pid.or(found.container.host_pid);
        let notes = sandbox.map(|sandbox| PodNotes {
            labels: sandbox.labels,
            ..PodNotes::default()
        });
        found.name_owner(notes.as_ref());
        true
    }
}

fn complete_from_metadata(found: &mut Details, known: &Metadata) {
    let label = |key: &str| known.labels.get(key).filter(|text| !text.is_empty()).cloned();
    let container = &mut found.container;
    container.image = container.image.take().or_else(|| known.image.clone());
    if !found.sandbox {
        let name = container.name.take();
        container.name = name
            .or_else(|| label("io.kubernetes.container.name"))
            .or_else(|| label("nerdctl/name"));
    }
    container.pod = container.pod.take().or_else(|| label("io.kubernetes.pod.name"));
    let namespace = container.pod_namespace.take();
    container.pod_namespace = namespace.or_else(|| label("io.kubernetes.pod.namespace"));
    found.pod_uid = found.pod_uid.take().or_else(|| label("io.kubernetes.pod.uid"));
    // What was asked for, where the bundle only has what followed from it.
    container.privileged = known.privileged.or(container.privileged);
    container.host_pid = known.host_pid.or(container.host_pid);
}

fn complete_from_entry(found: &mut Details, entry: DockerEntry) {
    let container = &mut found.container;
    container.name = entry.container_name.or(entry.name);
    container.image = entry.image.or(container.image.take());
    if let Some((namespace, pod)) = entry.pod {
        container.pod_namespace = Some(namespace);
        container.pod = Some(pod);
    }
    found.pod_uid = entry.pod_uid.or(found.pod_uid.take());
    found.notes.labels = entry.labels;
    // Docker adds files of its own to the mounts of the bundle.
    (container.host_paths, container.host_mounts) = host_paths_and_mounts(&entry.binds);
}

pub(super) fn complete_from_storage(container: &mut Container, listed: &StorageEntry) {
    container.name = container.name.take().or_else(|| listed.name.clone());
    container.image = container.image.take().or_else(|| listed.image.clone());
    if let (None, Some((namespace, pod))) = (&container.pod, &listed.pod) {
        container.pod_namespace = Some(namespace.clone());
        container.pod = Some(pod.clone());
    }
}

/// Docker's data directory, from the root file system of one of its containers.
fn docker_root(rootfs: &str) -> Option<&str> {
    let parts = [
        "/overlay2/",
        "/rootfs/",
        "/fuse-overlayfs/",
        "/devicemapper/",
        "/btrfs/",
        "/vfs/",
        "/zfs/",
    ];
    parts
        .iter()
        .find_map(|part| rootfs.split_once(part))
        .map(|(root, _)| root)
        .filter(|root| !root.is_empty())
}
