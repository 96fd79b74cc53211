//! Containers, by process, by mount and by name.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    bundles::{Bundles, Entry},
    cache::Bounded,
    cgroup::{CgroupClaim, Membership, membership},
    files::read_proc,
    mount_path::{MountOwner, mount_claim},
    proc_text,
};
use crate::model::Container;

/// How long something that was not found is not looked for again.
const MISS_LASTS: Duration = Duration::from_secs(5);
const MAX_MISSES: usize = 4096;

/// Finds out about containers. Cheap to share; all methods may be called from any thread.
#[derive(Debug)]
pub struct Containers {
    proc: PathBuf,
    bundles: Bundles,
    misses: Mutex<Bounded<String, Instant>>,
}

/// A container and where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The container.
    pub container: Container,
    /// The directory with its `config.json`.
    pub bundle: PathBuf,
    /// Where its root file system is mounted.
    pub rootfs: Option<PathBuf>,
    /// The uid of its pod, by which the kubelet's mounts are named.
    pub pod_uid: Option<String>,
    /// It is the pod's own container, which only keeps its namespaces.
    pub sandbox: bool,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing that is known.
    Nothing,
    /// One container, or all containers of one pod.
    Found(Vec<Found>),
    /// More than one container or pod.
    Ambiguous(Vec<Found>),
}

impl Default for Containers {
    fn default() -> Self {
        Self::new("/proc", "/")
    }
}

impl Containers {
    /// With another /proc, and with the host's root file system elsewhere.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>, host: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            bundles: Bundles::new(host.into()),
            misses: Mutex::new(Bounded::new(MAX_MISSES)),
        }
    }

    /// Adds a state directory of containerd (`state = ` in its configuration) to the usual ones. Those that a
    /// container's mount was seen in are added by themselves.
    pub fn add_state_dir(&self, directory: impl Into<PathBuf>) {
        self.bundles.add_state_dir(directory.into());
    }

    /// The container that a process runs in, by the text of its /proc/PID/cgroup.
    #[must_use]
    pub fn of_cgroup(&self, text: &[u8]) -> Option<Container> {
        self.of_membership(&membership(text))
    }

    pub(super) fn of_membership(&self, member: &Membership) -> Option<Container> {
        for claim in &member.claims {
            if let Some(entry) = self.find(claim) {
                return Some(entry.details.container.clone());
            }
        }
        let claim = member.claims.iter().find(|claim| !claim.needs_bundle)?;
        // No bundle, but the id is certain; the pod may still be known by its other containers.
        let pod = member.pod_uid.as_deref().and_then(|uid| self.pod(uid));
        let pod = pod.map(|found| found.container).unwrap_or_default();
        Some(Container {
            runtime: claim.runtime.map(str::to_owned),
            id: claim.id.clone(),
            pod: pod.pod,
            pod_namespace: pod.pod_namespace,
            owner: pod.owner,
            ..Container::default()
        })
    }

    /// The container or pod that a mount was made for, by the path of its mountpoint.
    #[must_use]
    pub fn container_of_mount_path(&self, path: &[u8]) -> Option<Container> {
        match mount_claim(path)?.owner? {
            MountOwner::Task {
                namespace,
                id,
                bundle,
            } => {
                let entry = self.bundles.beside_mount(&bundle, Some(&namespace), &id);
                let entry = entry.or_else(|| self.bundles.find(&id, Some(&namespace)));
                let runtime = if namespace == "moby" {
                    "docker"
                } else {
                    "containerd"
                };
                Some(container(entry).unwrap_or_else(|| bare(Some(runtime), &id, Some(&namespace))))
            }
            MountOwner::Sandbox { id, .. } => {
                let entry = self.bundles.find(&id, Some("k8s.io"));
                Some(container(entry).unwrap_or_else(|| bare(Some("containerd"), &id, Some("k8s.io"))))
            }
            MountOwner::Storage { id, userdata } => {
                let entry = self.bundles.beside_mount(&userdata, None, &id);
                let entry = entry.or_else(|| self.bundles.find(&id, None));
                Some(container(entry).unwrap_or_else(|| bare(None, &id, None)))
            }
            MountOwner::StorageLayer { root, layer } => self
                .bundles
                .storage_layer(&root, &layer)
                .or_else(|| self.by_root(&format!("/overlay/{layer}/merged"))),
            MountOwner::Docker { id, root } => {
                let entry = self
                    .bundles
                    .find(&id, None)
                    .or_else(|| self.bundles.docker(&root, &id));
                Some(container(entry).unwrap_or_else(|| bare(Some("docker"), &id, None)))
            }
            MountOwner::DockerLayer { root, layer } => self
                .by_root(&format!("/overlay2/{layer}/merged"))
                .or_else(|| container(self.bundles.docker_layer(&root, &layer))),
            MountOwner::Pod { uid } => self.pod(&uid).map(|found| found.container),
            MountOwner::NetworkNamespace { name } => {
                let same = |found: &Entry| found.details.network_namespace.as_deref() == Some(&*name);
                self.search(&format!("netns {name}"), same)
            }
        }
    }

    /// How many live processes every container has. A container that is missing here has none left.
    #[must_use]
    pub fn containers_alive(&self) -> HashMap<String, usize> {
        let mut alive = HashMap::new();
        let Ok(entries) = fs::read_dir(&self.proc) else {
            return alive;
        };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name();
            if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let directory = entry.path();
            let Ok(cgroup) = read_proc(&directory.join("cgroup")) else {
                continue;
            };
            let member = membership(&cgroup);
            let sure = member
                .claims
                .iter()
                .find(|claim| !claim.needs_bundle || self.find(claim).is_some());
            let Some(claim) = sure else { continue };
            // A zombie keeps its cgroup, but nothing else.
            let stat = read_proc(&directory.join("stat"))
                .ok()
                .and_then(|text| proc_text::stat(&text));
            if stat.is_some_and(|stat| !stat.is_dead()) {
                *alive.entry(claim.id.clone()).or_insert(0) += 1;
            }
        }
        alive
    }

    /// All containers that have a bundle.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        self.bundles.all().into_iter().map(found).collect()
    }

    /// What a user means by a container id or the unique beginning of one, by NAMESPACE/POD, by containerd's
    /// NAMESPACE/ID, or by the name of a container that belongs to no pod.
    #[must_use]
    pub fn lookup(&self, what: &str) -> Lookup {
        if what.is_empty() {
            return Lookup::Nothing;
        }
        let all = self.all();
        if let Some((namespace, name)) = what.split_once('/') {
            let in_namespace = |of: Option<&String>| of.is_some_and(|of| of == namespace);
            let pod: Vec<&Found> = all
                .iter()
                .filter(|found| in_namespace(found.container.pod_namespace.as_ref()))
                .filter(|found| found.container.pod.as_deref() == Some(name))
                .collect();
            if !pod.is_empty() {
                return pods(&pod);
            }
            let task = |found: &&Found| {
                in_namespace(found.container.namespace.as_ref()) && found.container.id == name
            };
            return one(all.iter().filter(task).collect());
        }
        let exact: Vec<&Found> = all.iter().filter(|found| found.container.id == what).collect();
        if !exact.is_empty() {
            return one(exact);
        }
        let beginning: Vec<&Found> = all
            .iter()
            .filter(|found| found.container.id.starts_with(what))
            .collect();
        if !beginning.is_empty() {
            return one(beginning);
        }
        let named =
            |found: &&Found| found.container.pod.is_none() && found.container.name.as_deref() == Some(what);
        one(all.iter().filter(named).collect())
    }

    fn find(&self, claim: &CgroupClaim) -> Option<Entry> {
        let namespace = claim.namespace.as_deref();
        let key = format!("{} {}", namespace.unwrap_or_default(), claim.id);
        self.unless_missed(&key, || self.bundles.find(&claim.id, namespace))
    }

    /// The pod's sandbox if there is one, else something that has the pod's names and nothing of one container.
    fn pod(&self, uid: &str) -> Option<Found> {
        self.unless_missed(&format!("pod {uid}"), || {
            let of_pod = |entry: &Entry| entry.details.pod_uid.as_deref() == Some(uid);
            let entries: Vec<Entry> = self.bundles.all().into_iter().filter(of_pod).collect();
            let sandbox = entries.iter().find(|entry| entry.details.sandbox);
            let mut pod = sandbox.or(entries.first()).cloned().map(found)?;
            if !pod.sandbox {
                pod.container.name = None;
                pod.container.image = None;
            }
            Some(pod)
        })
    }

    fn by_root(&self, end: &str) -> Option<Container> {
        let same = |entry: &Entry| {
            entry
                .details
                .root
                .as_deref()
                .is_some_and(|root| root.ends_with(end))
        };
        self.search(end, same)
    }

    fn search(&self, key: &str, same: impl Fn(&Entry) -> bool) -> Option<Container> {
        self.unless_missed(key, || container(self.bundles.all().into_iter().find(same)))
    }

    /// Does not search again for what was not found a moment ago: hundreds of processes may be of one unknown
    /// container.
    fn unless_missed<T>(&self, key: &str, search: impl FnOnce() -> Option<T>) -> Option<T> {
        // What was not found in the places known then may be in one that was learnt since.
        let key = format!("{} {key}", self.bundles.places_known());
        let misses = || self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses()
            .get(&key)
            .is_some_and(|since| since.elapsed() < MISS_LASTS)
        {
            return None;
        }
        let result = search();
        if result.is_none() {
            misses().insert(key, Instant::now());
        }
        result
    }
}

fn container(entry: Option<Entry>) -> Option<Container> {
    entry.map(|entry| entry.details.container.clone())
}

/// What the path alone says.
fn bare(runtime: Option<&str>, id: &str, namespace: Option<&str>) -> Container {
    Container {
        runtime: runtime.map(str::to_owned),
        id: id.to_owned(),
        namespace: namespace.map(str::to_owned),
        ..Container::default()
    }
}

fn found(entry: Entry) -> Found {
    let Entry { details, bundle } = entry;
    let details = Arc::unwrap_or_clone(details);
    let rootfs = details.root.as_deref().map(|root| bundle.join(Path::new(root)));
    Found {
        container: details.container,
        bundle,
        rootfs,
        pod_uid: details.pod_uid,
        sandbox: details.sandbox,
    }
}

fn one(matches: Vec<&Found>) -> Lookup {
    let matches: Vec<Found> = matches.into_iter().cloned().collect();
    match matches.len() {
        0 => Lookup::Nothing,
        1 => Lookup::Found(matches),
        _ => Lookup::Ambiguous(matches),
    }
}

/// Containers of one pod belong together. A pod that was made again has another uid.
fn pods(matches: &[&Found]) -> Lookup {
    let mut uids: Vec<&String> = matches
        .iter()
        .filter_map(|found| found.pod_uid.as_ref())
        .collect();
    uids.sort_unstable();
    uids.dedup();
    let matches: Vec<Found> = matches.iter().map(|found| (*found).clone()).collect();
    if uids.len() > 1 {
        Lookup::Ambiguous(matches)
    } else {
        Lookup::Found(matches)
    }
}

#[cfg(test)]
mod tests;
