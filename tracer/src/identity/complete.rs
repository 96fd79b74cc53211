//! What the engines above the runtime know of a container, beside its bundle.

use std::path::{Path, PathBuf};

use super::{
    bundle::{Details, host_paths_and_mounts, notes_of},
    bundles::Bundles,
    cgroup::{is_containerd_name, is_full_id},
    metadata::{self, Metadata},
    owner::PodNotes,
    places::Keeper,
    spec,
    storage::{DockerEntry, StorageEntry, docker_config, docker_host},
    trusted::Folder,
};
use crate::model::Container;

impl Bundles {
    /// Adds what the engine knows to what a bundle says, which lies in a directory that is open.
    pub(super) fn complete(&self, found: &mut Details, folder: &Folder, base: &Path, bundle: &Path) {
        match found.container.runtime.as_deref() {
            Some("docker") => {
                let root = found.root.as_deref().and_then(docker_root).map(PathBuf::from);
                let roots = root.into_iter().chain(self.places(Keeper::Docker));
                for root in roots {
                    let folder = self.folder(&root);
                    if folder.is_some_and(|folder| complete_from_docker(found, &folder)) {
                        break;
                    }
                }
            }
            Some("cri-o" | "podman") => self.complete_from_lists(found, folder, base),
            Some("containerd") => self.complete_from_containerd(found, folder, base, bundle),
            _ => {}
        }
    }

    fn complete_from_lists(&self, found: &mut Details, folder: &Folder, base: &Path) {
        let sandbox = found.sandbox_id.clone().filter(|id| is_full_id(id));
        let (mut listed, mut notes) = (None, None);
        let mut look = |folder: &Folder, root: &Path| {
            if listed.is_none() {
                let list = self.storage_entries(folder, root);
                listed = list.into_iter().find(|entry| entry.id == found.container.id);
            }
            if let (None, Some(id)) = (&notes, &sandbox) {
                notes = sandbox_in_storage(folder, id);
            }
        };
        look(folder, base);
        for root in self.places(Keeper::Storage).iter().filter(|root| *root != base) {
            if let Some(folder) = self.folder(root) {
                look(&folder, root);
            }
        }
        if let Some(listed) = listed {
            complete_from_storage(&mut found.container, &listed);
        }
        found.name_owner(notes.as_ref());
    }

    fn complete_from_containerd(&self, found: &mut Details, state: &Folder, base: &Path, bundle: &Path) {
        let Some(namespace) = found.container.namespace.clone() else {
            return;
        };
        let root = metadata::root_of(state, base, bundle);
        let Some(root) = root.and_then(|root| self.folder(&root)) else {
            return;
        };
        let read = |id: &str| metadata::read(&root, &namespace, id);
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
}

/// Whether Docker has files of the container below its data directory.
pub(super) fn complete_from_docker(found: &mut Details, root: &Folder) -> bool {
    let read = |id: &str, name: &str| Some(root.read(&Path::new("containers").join(id).join(name))?.1);
    let config = |id: &str| docker_config(&read(id, "config.v2.json")?);
    let Some(entry) = config(&found.container.id) else {
        return false;
    };
    let sandbox = entry
        .sandbox_id
        .as_deref()
        .filter(|id| is_full_id(id))
        .and_then(config);
    let host = read(&found.container.id, "hostconfig.json");
    let host = host.map(|json| docker_host(&json)).unwrap_or_default();
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

/// What the configuration of a sandbox of CRI-O says of its pod.
fn sandbox_in_storage(root: &Folder, id: &str) -> Option<PodNotes> {
    let bundle = Path::new("overlay-containers").join(id).join("userdata");
    let (_, json) = root.read(&bundle.join("config.json"))?;
    Some(notes_of(&spec::parse(&json)?.annotations))
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
