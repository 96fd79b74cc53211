//! Finding and reading the files in which runtimes describe their containers.

use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    bundle::{Details, details},
    cache::Bounded,
    cgroup::{is_containerd_name, is_full_id},
    complete::complete_from_storage,
    files::{Stamp, below, is_local, is_plain, names, read_config, read_proc, stamp},
    mount_path::is_task_directory,
    places::{Keeper, Places},
    spec,
    storage::{StorageEntry, storage_list},
    watch::WatchPatterns,
};
use crate::model::Container;

const MAX_CACHED: usize = 4096;
/// A node has some hundred containers; a search ends there.
const MAX_FOUND: usize = 4096;

/// A container and the directory of its configuration.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) details: Arc<Details>,
    pub(super) bundle: PathBuf,
}

/// Reads bundles, and remembers what it read.
#[derive(Debug)]
pub(super) struct Bundles {
    pub(super) host: PathBuf,
    /// Nothing may be opened on or below these mounts.
    watched: WatchPatterns,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    places_of: Places,
    refused: HashSet<PathBuf>,
    bundles: Bounded<PathBuf, (Stamp, Arc<Details>)>,
    places: Bounded<String, PathBuf>,
    lists: Bounded<PathBuf, (Stamp, Arc<Vec<StorageEntry>>)>,
}

impl Bundles {
    pub(super) fn new(host: PathBuf) -> Self {
        Self {
            host,
            watched: WatchPatterns::default(),
            memory: Mutex::new(Memory {
                places_of: Places::default(),
                refused: HashSet::new(),
                bundles: Bounded::new(MAX_CACHED),
                places: Bounded::new(MAX_CACHED),
                lists: Bounded::new(16),
            }),
        }
    }

    /// A panic elsewhere leaves nothing half-written here.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows with every directory that is learnt.
    pub(super) fn places_known(&self) -> usize {
        self.memory().places_of.len()
    }

    /// Trusts a state directory of containerd that its user named.
    pub(super) fn add_state_dir(&self, directory: PathBuf) {
        self.learn(Keeper::Containerd, directory);
    }

    /// Others of the same runtime are found there from now on.
    pub(super) fn learn(&self, keeper: Keeper, directory: PathBuf) {
        self.memory().places_of.learn(keeper, directory);
    }

    pub(super) fn places(&self, keeper: Keeper) -> Vec<PathBuf> {
        self.memory().places_of.of(keeper)
    }

    /// Whether a directory may be looked into: it is a known one, or looking does no harm.
    fn is_open(&self, keeper: Keeper, directory: &Path) -> bool {
        let known = self.memory().places_of.has(keeper, directory);
        known || self.is_safe(directory)
    }

    /// The configuration beside a mount, wherever that is: the directory is somebody's word, so it is only looked
    /// into where that can neither hang nor take a reference on a container's mount.
    pub(super) fn beside_mount(&self, directory: &Path, namespace: Option<&str>, id: &str) -> Option<Entry> {
        let state = namespace
            .and_then(|_| directory.ancestors().nth(3))
            .map(Path::to_path_buf);
        let known = match &state {
            Some(state) => self.memory().places_of.has(Keeper::Containerd, state),
            None => self.memory().places_of.covers(Keeper::Storage, directory),
        };
        if !known && !self.is_safe(directory) {
            return None;
        }
        let entry = self.read(directory, namespace, id)?;
        if let Some(state) = state {
            self.add_state_dir(state);
        }
        Some(entry)
    }

    pub(super) fn is_safe(&self, directory: &Path) -> bool {
        if self.memory().refused.contains(directory) {
            return false;
        }
        let mountinfo = || read_proc_whole("/proc/self/mountinfo");
        let safe = is_plain(directory)
            && !self.watched.covers(directory.as_os_str().as_bytes())
            && is_local(&below(&self.host, directory), &mountinfo());
        if !safe {
            let refused = &mut self.memory().refused;
            if refused.len() >= MAX_CACHED {
                refused.clear();
            }
            refused.insert(directory.to_path_buf());
        }
        safe
    }

    /// Reads `config.json` in a bundle; what was read before if it is gone meanwhile.
    fn read(&self, directory: &Path, namespace: Option<&str>, id: &str) -> Option<Entry> {
        let entry = |details| {
            Some(Entry {
                details,
                bundle: directory.to_path_buf(),
            })
        };
        let path = below(&self.host, directory).join("config.json");
        let cached = self.memory().bundles.get(directory).cloned();
        match (stamp(&path), cached) {
            (None, Some((_, details))) => return entry(details),
            (None, None) => return None,
            (Some(now), Some((then, details))) if now == then => return entry(details),
            _ => {}
        }
        let (stamp, json) = read_config(&path)?;
        let mut found = details(&spec::parse(&json)?, namespace, id);
        self.complete(&mut found, directory);
        let found = Arc::new(found);
        self.memory()
            .bundles
            .insert(directory.to_path_buf(), (stamp, Arc::clone(&found)));
        entry(found)
    }

    /// The lists of one containers/storage directory.
    pub(super) fn storage_entries(&self, root: &Path) -> Vec<StorageEntry> {
        let lists = ["containers.json", "volatile-containers.json"];
        let paths = lists
            .iter()
            .map(|list| root.join("overlay-containers").join(list));
        paths
            .filter_map(|path| self.storage_list(&path))
            .flat_map(|list| list.as_ref().clone())
            .collect()
    }

    fn storage_list(&self, path: &Path) -> Option<Arc<Vec<StorageEntry>>> {
        let file = below(&self.host, path);
        let now = stamp(&file)?;
        if let Some((then, list)) = self.memory().lists.get(path)
            && *then == now
        {
            return Some(Arc::clone(list));
        }
        let (stamp, json) = read_config(&file)?;
        let list = Arc::new(storage_list(&json));
        self.memory()
            .lists
            .insert(path.to_path_buf(), (stamp, Arc::clone(&list)));
        Some(list)
    }

    /// The container of an id, in containerd's namespace if that is known.
    pub(super) fn find(&self, id: &str, namespace: Option<&str>) -> Option<Entry> {
        let key = format!("{}/{id}", namespace.unwrap_or_default());
        let place = self.memory().places.get(&key).cloned();
        let entry = place.and_then(|bundle| {
            let namespace = if bundle.ends_with("userdata") {
                None
            } else {
                file_name(bundle.parent()?)
            };
            self.read(&bundle, namespace.as_deref(), id)
        });
        if entry.is_some() {
            return entry;
        }
        let entry = self.find_task(id, namespace).or_else(|| {
            let elsewhere = namespace.is_none() && is_full_id(id);
            elsewhere.then(|| self.find_in_storage(id).or_else(|| self.find_in_docker(id)))?
        })?;
        self.memory().places.insert(key, entry.bundle.clone());
        Some(entry)
    }

    fn find_task(&self, id: &str, namespace: Option<&str>) -> Option<Entry> {
        if !is_containerd_name(id) {
            return None;
        }
        self.task_directories().iter().find_map(|tasks| {
            let found = if namespace.is_none() {
                names(&below(&self.host, tasks))
            } else {
                Vec::new()
            };
            let mut namespaces = namespace.into_iter().chain(found.iter().map(String::as_str));
            namespaces.find_map(|namespace| self.read(&tasks.join(namespace).join(id), Some(namespace), id))
        })
    }

    fn find_in_storage(&self, id: &str) -> Option<Entry> {
        let roots = self.places(Keeper::Storage);
        let mut bundles = roots.iter().map(|root| storage_bundle(root, id));
        bundles.find_map(|bundle| self.read(&bundle, None, id))
    }

    /// A container of Docker that has no bundle, because it does not run.
    fn find_in_docker(&self, id: &str) -> Option<Entry> {
        let roots = self.places(Keeper::Docker);
        roots.iter().find_map(|root| self.docker(root, id))
    }

    /// A container by Docker's own files.
    pub(super) fn docker(&self, root: &Path, id: &str) -> Option<Entry> {
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
        let found = self.is_open(Keeper::Docker, root) && self.complete_from_docker(&mut details, root);
        found.then(|| Entry {
            details: Arc::new(details),
            bundle: root.join("containers").join(id),
        })
    }

    /// The container whose root file system is a layer of Docker.
    pub(super) fn docker_layer(&self, root: &Path, layer: &str) -> Option<Entry> {
        if !self.is_open(Keeper::Docker, root) {
            return None;
        }
        let mounts = root.join("image/overlay2/layerdb/mounts");
        let ids = names(&below(&self.host, &mounts));
        let id = ids.into_iter().filter(|id| is_full_id(id)).find(|id| {
            let file = below(&self.host, &mounts).join(id).join("mount-id");
            read_config(&file).is_some_and(|(_, text)| text.trim_ascii() == layer.as_bytes())
        })?;
        self.learn(Keeper::Docker, root.to_path_buf());
        self.find(&id, None).or_else(|| self.docker(root, &id))
    }

    /// The container whose root file system is a layer of containers/storage.
    pub(super) fn storage_layer(&self, root: &Path, layer: &str) -> Option<Container> {
        if !self.is_open(Keeper::Storage, root) {
            return None;
        }
        // Containers that are not to outlive a reboot are listed below /run.
        let known = self.places(Keeper::Storage);
        let mut roots = vec![root];
        let others = known.iter().map(PathBuf::as_path).filter(|other| *other != root);
        roots.extend(others.filter(|_| known.iter().any(|known| known == root)));
        let entries = roots.into_iter().flat_map(|root| self.storage_entries(root));
        let listed = entries
            .into_iter()
            .find(|entry| entry.layer.as_deref() == Some(layer))?;
        self.learn(Keeper::Storage, root.to_path_buf());
        if let Some(entry) = self.find(&listed.id, None) {
            return Some(entry.details.container.clone());
        }
        let runtime = if listed.pod.is_some() { "cri-o" } else { "podman" };
        let mut container = Container {
            runtime: Some(runtime.to_owned()),
            id: listed.id.clone(),
            ..Container::default()
        };
        complete_from_storage(&mut container, &listed);
        Some(container)
    }

    /// Every container that has a bundle, or that Docker has files of.
    pub(super) fn all(&self) -> Vec<Entry> {
        let mut found: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |entry: Option<Entry>| {
            let Some(entry) = entry else { return };
            let container = &entry.details.container;
            if found.len() < MAX_FOUND && seen.insert((container.namespace.clone(), container.id.clone())) {
                found.push(entry);
            }
        };
        for tasks in self.task_directories() {
            for namespace in names(&below(&self.host, &tasks)) {
                let directory = tasks.join(&namespace);
                for id in names(&below(&self.host, &directory)) {
                    add(self.read(&directory.join(&id), Some(&namespace), &id));
                }
            }
        }
        for root in self.places(Keeper::Storage) {
            let directory = root.join("overlay-containers");
            for id in names(&below(&self.host, &directory))
                .iter()
                .filter(|id| is_full_id(id))
            {
                add(self.read(&storage_bundle(&root, id), None, id));
            }
        }
        for root in self.places(Keeper::Docker) {
            for id in names(&below(&self.host, &root.join("containers"))) {
                add(is_full_id(&id).then(|| self.docker(&root, &id)).flatten());
            }
        }
        found
    }

    fn task_directories(&self) -> Vec<PathBuf> {
        let states = self.places(Keeper::Containerd);
        let is_task =
            |name: &String| is_task_directory(name.as_bytes()) || name == "io.containerd.runtime.v1.linux";
        let inside = |state: PathBuf| {
            let found = names(&below(&self.host, &state));
            found
                .into_iter()
                .filter(is_task)
                .map(move |name| state.join(name))
        };
        states.into_iter().flat_map(inside).collect()
    }
}

fn storage_bundle(root: &Path, id: &str) -> PathBuf {
    root.join("overlay-containers").join(id).join("userdata")
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}

/// The mount table is longer than other files of /proc.
fn read_proc_whole(path: &str) -> Vec<u8> {
    std::fs::read(path)
        .or_else(|_| read_proc(Path::new(path)))
        .unwrap_or_default()
}
