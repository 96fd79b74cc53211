//! Reads the files in which runtimes describe their containers.
//!
//! Reading a file takes a reference to its mount for that time, and an umount in that moment fails. So ebusy reads the
//! runtimes' files when it starts and when a container appears, never because of an umount: see [`super::Containers`].

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    bundle::{Details, details},
    cache::Bounded,
    cgroup::{is_containerd_name, is_full_id},
    complete::{complete_from_docker, complete_from_storage},
    files::Stamp,
    known::{Entry, Known},
    mount_path::{MountOwner, is_task_directory},
    places::{Keeper, Places},
    spec,
    storage::{StorageEntry, storage_list},
    trusted::Folder,
    watch::WatchPatterns,
};
use crate::model::Container;

/// Directories that are tried at the start; a host has a few.
const TRIED_MAX: usize = 64;

/// Lists of containers/storage that are remembered: it has two in each directory.
const LISTS_MAX: usize = 16;

/// Below a directory of containers/storage.
const LISTS: [&str; 2] = [
    "overlay-containers/containers.json",
    "overlay-containers/volatile-containers.json",
];

/// Below Docker's data directory: a directory for each container, with the id of its layer in a file.
const DOCKER_LAYERS: &str = "image/overlay2/layerdb/mounts";

/// Lists, each with the stamp of its file when it was read.
type Lists = Bounded<PathBuf, (Stamp, Arc<Vec<StorageEntry>>)>;

/// Reads bundles, and remembers them.
#[derive(Debug)]
pub(super) struct Bundles {
    host: PathBuf,
    /// Nothing may be opened on or below these mounts.
    watched: WatchPatterns,
    places: Mutex<Places>,
    known: Mutex<Known>,
    lists: Mutex<Lists>,
}

impl Bundles {
    pub(super) fn new(host: PathBuf) -> Self {
        Self {
            host,
            watched: WatchPatterns::default(),
            places: Mutex::default(),
            known: Mutex::default(),
            lists: Mutex::new(Bounded::new(LISTS_MAX)),
        }
    }

    /// The facts read so far.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        locked(&self.known)
    }

    pub(super) fn places(&self, keeper: Keeper) -> Vec<PathBuf> {
        locked(&self.places).of(keeper)
    }

    pub(super) fn folder(&self, directory: &Path) -> Option<Folder> {
        Folder::open(&self.host, directory, &self.watched)
    }

    /// Opens a directory that was learnt from a mount; from now on other containers of the same runtime are searched
    /// there.
    fn learn_place(&self, keeper: Keeper, directory: &Path) -> Option<Folder> {
        let folder = self.folder(directory)?;
        locked(&self.places).learn(keeper, directory.to_path_buf());
        Some(folder)
    }

    /// Learns the state directories of the runtimes that made these mounts.
    pub(super) fn learn_places_of(&self, owners: impl Iterator<Item = MountOwner>) {
        let mut tried = HashSet::new();
        for (keeper, directory) in owners.filter_map(|owner| place_of(&owner)) {
            if tried.len() == TRIED_MAX {
                break;
            }
            if tried.insert(directory.clone()) {
                self.learn_place(keeper, &directory);
            }
        }
    }

    /// Reads the files of the container that a mount was made for.
    pub(super) fn learn(&self, owner: &MountOwner) {
        match owner {
            MountOwner::Task {
                namespace,
                id,
                bundle,
            } => {
                let folder = state_of(bundle).and_then(|state| {
                    let folder = self.learn_place(Keeper::Containerd, state)?;
                    Some((folder, state))
                });
                if !folder
                    .is_some_and(|(folder, state)| self.read(&folder, state, bundle, Some(namespace), id))
                {
                    self.read_task(id, namespace);
                }
            }
            MountOwner::Sandbox { id, .. } => self.read_task(id, "k8s.io"),
            MountOwner::Storage { id, userdata } => {
                let Some(root) = state_of(userdata) else { return };
                if let Some(folder) = self.learn_place(Keeper::Storage, root) {
                    self.read(&folder, root, userdata, None, id);
                }
            }
            MountOwner::StorageLayer { root, layer } => {
                self.learn_place(Keeper::Storage, root);
                // Containers that must not outlive a reboot are listed below /run.
                for root in self.places(Keeper::Storage) {
                    self.read_storage(&root, |entry| entry.layer.as_deref() == Some(layer));
                }
            }
            MountOwner::Docker { id, root } => {
                self.read_task(id, "moby");
                if let Some(folder) = self.learn_place(Keeper::Docker, root) {
                    self.read_docker(&folder, root, id);
                }
            }
            MountOwner::DockerLayer { root, layer } => {
                // The bundle names the layer. Docker's own files have it in one file for each container: reading them
                // all would keep their file system busy for too long.
                self.read_new_tasks("moby");
                let id = self.known().of_layer(layer).map(str::to_owned);
                let folder = self.learn_place(Keeper::Docker, root);
                if let (Some(id), Some(folder)) = (id, folder) {
                    self.read_docker(&folder, root, &id);
                }
            }
            MountOwner::Pod { .. } | MountOwner::NetworkNamespace { .. } => {}
        }
    }

    /// Reads the files of all containers in the known directories.
    pub(super) fn learn_all(&self) {
        for state in self.places(Keeper::Containerd) {
            let Some(folder) = self.folder(&state) else {
                continue;
            };
            for tasks in task_directories(&folder) {
                for namespace in folder.names(&tasks) {
                    let directory = tasks.join(&namespace);
                    for id in folder.names(&directory) {
                        let bundle = state.join(&directory).join(&id);
                        self.read(&folder, &state, &bundle, Some(&namespace), &id);
                    }
                }
            }
        }
        for root in self.places(Keeper::Storage) {
            let Some(folder) = self.folder(&root) else {
                continue;
            };
            for id in folder.names(Path::new("overlay-containers")) {
                if is_full_id(&id) {
                    self.read(&folder, &root, &storage_bundle(&root, &id), None, &id);
                }
            }
            self.read_storage(&root, |_| true);
        }
        for root in self.places(Keeper::Docker) {
            let Some(folder) = self.folder(&root) else {
                continue;
            };
            self.read_docker_layers(&folder);
            for id in folder.names(Path::new("containers")) {
                if is_full_id(&id) {
                    self.read_docker(&folder, &root, &id);
                }
            }
        }
    }

    /// Reads `config.json` in a bundle below an open directory; true if there is one.
    fn read(&self, folder: &Folder, base: &Path, bundle: &Path, namespace: Option<&str>, id: &str) -> bool {
        let Ok(below) = bundle.strip_prefix(base) else {
            return false;
        };
        let path = below.join("config.json");
        let Some(stat) = folder.stat(&path) else {
            return false;
        };
        if self.known().read_before(bundle, Stamp::from(&stat)) {
            return true;
        }
        let Some((stamp, json)) = folder.read(&path) else {
            return false;
        };
        let Some(spec) = spec::parse(&json) else {
            return false;
        };
        let mut found = details(&spec, namespace, id);
        self.complete(&mut found, folder, base, below);
        self.insert(Some(stamp), found, bundle.to_path_buf());
        true
    }

    fn insert(&self, stamp: Option<Stamp>, details: Details, bundle: PathBuf) {
        let details = Arc::new(details);
        self.known().insert(stamp, Entry { details, bundle });
    }

    /// A task of containerd, in any of its state directories.
    fn read_task(&self, id: &str, namespace: &str) {
        if !is_containerd_name(id) {
            return;
        }
        for state in self.places(Keeper::Containerd) {
            let Some(folder) = self.folder(&state) else {
                continue;
            };
            for tasks in task_directories(&folder) {
                let bundle = state.join(tasks).join(namespace).join(id);
                if self.read(&folder, &state, &bundle, Some(namespace), id) {
                    return;
                }
            }
        }
    }

    /// The unknown tasks in a namespace of containerd.
    fn read_new_tasks(&self, namespace: &str) {
        for state in self.places(Keeper::Containerd) {
            let Some(folder) = self.folder(&state) else {
                continue;
            };
            for tasks in task_directories(&folder) {
                let directory = tasks.join(namespace);
                for id in folder.names(&directory) {
                    let bundle = state.join(&directory).join(&id);
                    if self.known().at(&bundle).is_none() {
                        self.read(&folder, &state, &bundle, Some(namespace), &id);
                    }
                }
            }
        }
    }

    /// The wanted containers in the lists of containers/storage, with their bundles if they have some.
    fn read_storage(&self, root: &Path, is_wanted: impl Fn(&StorageEntry) -> bool) {
        let Some(folder) = self.folder(root) else { return };
        for listed in self.storage_entries(&folder, root) {
            if let Some(layer) = &listed.layer {
                self.known().insert_layer(layer.clone(), listed.id.clone());
            }
            if !is_wanted(&listed) || !is_full_id(&listed.id) {
                continue;
            }
            let bundles = self.places(Keeper::Storage);
            let read = bundles.iter().any(|place| {
                let bundle = storage_bundle(place, &listed.id);
                let other = self.folder(place);
                other.is_some_and(|other| self.read(&other, place, &bundle, None, &listed.id))
            });
            if !read {
                let runtime = if listed.pod.is_some() { "cri-o" } else { "podman" };
                let mut container = Container {
                    runtime: Some(runtime.to_owned()),
                    id: listed.id.clone(),
                    ..Container::default()
                };
                complete_from_storage(&mut container, &listed);
                let details = Details {
                    container,
                    ..Details::default()
                };
                self.insert(None, details, storage_bundle(root, &listed.id));
            }
        }
    }

    /// The lists of one directory of containers/storage.
    pub(super) fn storage_entries(&self, folder: &Folder, root: &Path) -> Vec<StorageEntry> {
        let lists = LISTS
            .iter()
            .filter_map(|list| self.storage_list(folder, root, list));
        lists.flat_map(|list| list.as_ref().clone()).collect()
    }

    fn storage_list(&self, folder: &Folder, root: &Path, list: &str) -> Option<Arc<Vec<StorageEntry>>> {
        let now = Stamp::from(&folder.stat(Path::new(list))?);
        let path = root.join(list);
        if let Some((then, list)) = locked(&self.lists).get(&path)
            && *then == now
        {
            return Some(Arc::clone(list));
        }
        let (stamp, json) = folder.read(Path::new(list))?;
        let list = Arc::new(storage_list(&json));
        locked(&self.lists).insert(path, (stamp, Arc::clone(&list)));
        Some(list)
    }

    /// A container by Docker's own files: a stopped one has no bundle.
    fn read_docker(&self, folder: &Folder, root: &Path, id: &str) {
        if self.known().find(id, None).is_some() {
            return;
        }
        let container = Container {
            runtime: Some("docker".to_owned()),
            id: id.to_owned(),
            namespace: Some("moby".to_owned()),
            ..Container::default()
        };
        let mut details = Details {
            container,
            ..Details::default()
        };
        if complete_from_docker(&mut details, folder) {
            self.insert(None, details, root.join("containers").join(id));
        }
    }

    /// The layer of each container: it does not change, and is read once.
    fn read_docker_layers(&self, folder: &Folder) {
        let mounts = Path::new(DOCKER_LAYERS);
        for id in folder.names(mounts) {
            if !is_full_id(&id) || self.known().has_layer(&id) {
                continue;
            }
            let file = mounts.join(&id).join("mount-id");
            let layer = folder
                .read(&file)
                .and_then(|(_, text)| String::from_utf8(text).ok());
            if let Some(layer) = layer {
                self.known().insert_layer(layer.trim().to_owned(), id);
            }
        }
    }
}

/// A panic elsewhere leaves nothing half-written here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state directory of a mount's runtime.
fn place_of(owner: &MountOwner) -> Option<(Keeper, PathBuf)> {
    let (keeper, directory) = match owner {
        MountOwner::Task { bundle, .. } => (Keeper::Containerd, state_of(bundle)?),
        MountOwner::Sandbox { state, .. } => (Keeper::Containerd, state.as_path()),
        MountOwner::Storage { userdata, .. } => (Keeper::Storage, state_of(userdata)?),
        MountOwner::StorageLayer { root, .. } => (Keeper::Storage, root.as_path()),
        MountOwner::Docker { root, .. } | MountOwner::DockerLayer { root, .. } => {
            (Keeper::Docker, root.as_path())
        }
        MountOwner::Pod { .. } | MountOwner::NetworkNamespace { .. } => return None,
    };
    Some((keeper, directory.to_path_buf()))
}

/// The directory in which a runtime has its bundles: three above `io.containerd.runtime.v2.task/<namespace>/<id>` and
/// `overlay-containers/<id>/userdata`.
fn state_of(bundle: &Path) -> Option<&Path> {
    bundle.ancestors().nth(3)
}

/// Directories of bundles below a state directory of containerd.
fn task_directories(state: &Folder) -> Vec<PathBuf> {
    let is_task =
        |name: &String| is_task_directory(name.as_bytes()) || name == "io.containerd.runtime.v1.linux";
    let names = state.names(Path::new("")).into_iter();
    names.filter(is_task).map(PathBuf::from).collect()
}

fn storage_bundle(root: &Path, id: &str) -> PathBuf {
    root.join("overlay-containers").join(id).join("userdata")
}
