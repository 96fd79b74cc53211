//! Facts about a container from the engines above the runtime, beside its bundle.

use std::path::Path;

use super::{
    bundle::{Details, host_paths_and_mounts, notes_of},
    cgroup::is_full_id,
    metadata::Metadata,
    owner::PodNotes,
    spec,
    storage::{DockerEntry, StorageEntry, docker_config, docker_host},
    trusted::Folder,
};
use crate::model::Container;

/// Docker has files of the container below its data directory.
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

/// The facts about a pod in the configuration of its CRI-O sandbox.
pub(super) fn sandbox_in_storage(root: &Folder, id: &str) -> Option<PodNotes> {
    let bundle = Path::new("overlay-containers").join(id).join("userdata");
    let (_, json) = root.read(&bundle.join("config.json"))?;
    Some(notes_of(&spec::parse(&json)?.annotations))
}

pub(super) fn complete_from_metadata(found: &mut Details, known: &Metadata) {
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
    // The request itself; the bundle only has its consequences.
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
pub(super) fn docker_root(rootfs: &str) -> Option<&str> {
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
