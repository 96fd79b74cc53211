//! Containers, by process, by mount and by name.
//!
//! Only [`Containers::learn_all`] and [`Containers::learn`] read the files of runtimes, because reading a file keeps
//! its mount busy for that moment. All other methods answer from the data read before.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    bundles::Bundles,
    cgroup::{CgroupClaim, Membership, membership},
    files::read_proc,
    known::{Entry, Known},
    mount_path::{MountOwner, mount_claim},
    proc_text,
    trusted::Folder,
};
use crate::{
    model::Container,
    watchdog::{self, Step},
};

/// Finds out about containers. Cheap to share; all methods may be called from any thread.
#[derive(Debug)]
pub struct Containers {
    proc: PathBuf,
    bundles: Bundles,
}

/// A container and the places of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The container.
    pub container: Container,
    /// The directory with its `config.json`.
    pub bundle: PathBuf,
    /// The mountpoint of its root file system.
    pub rootfs: Option<PathBuf>,
    /// The uid of its pod, by which the kubelet's mounts are named.
    pub pod_uid: Option<String>,
    /// It is the pod's sandbox, which only keeps its namespaces.
    pub sandbox: bool,
}

/// The meaning of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Unknown.
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
        }
    }

    /// Reads the files of all containers of all runtimes, in the usual places and in those that mounts of ebusy's own
    /// namespace lead to. Only for the start: meanwhile it keeps the mounts busy that have these files.
    pub fn learn_all<'p>(&self, mounts: impl Iterator<Item = &'p [u8]>) {
        let _step = watchdog::within(Step::Runtimes, &[]);
        let owners = mounts.filter_map(|path| mount_claim(path)?.owner);
        self.bundles.learn_places_of(owners);
        self.bundles.learn_all();
    }

    /// Opens a directory in which a runtime keeps its state.
    pub(crate) fn folder(&self, directory: &Path) -> Option<Folder> {
        self.bundles.folder(directory)
    }

    /// Reads the files of the container that a mount was made for, and learns the directory of its runtime. The path
    /// must be that of a mount in ebusy's own namespace which nobody is about to unmount.
    pub fn learn(&self, path: &[u8]) {
        let _step = watchdog::within(Step::Runtimes, path);
        if let Some(owner) = mount_claim(path).and_then(|claim| claim.owner) {
            self.bundles.learn(&owner);
        }
    }

    /// A number that changes whenever something was learnt.
    pub(crate) fn learned(&self) -> u64 {
        self.bundles.known().learned
    }

    /// The container that a process runs in, by the text of its /proc/PID/cgroup.
    #[must_use]
    pub fn of_cgroup(&self, text: &[u8]) -> Option<Container> {
        self.of_membership(&membership(text))
    }

    /// Anybody who may make cgroups can give them any name: the runtime's record has to agree. Without a record, only
    /// the claim of the name is left.
    pub(super) fn of_membership(&self, member: &Membership) -> Option<Container> {
        let known = self.bundles.known();
        let proven = member
            .claims
            .iter()
            .find_map(|claim| recorded(&known, member, claim));
        if let Some(entry) = proven {
            return Some(entry.details.container.clone());
        }
        let unknown = |claim: &&CgroupClaim| known.find(&claim.id, claim.namespace.as_deref()).is_none();
        let claim = member
            .claims
            .iter()
            .find(|claim| !claim.needs_bundle)
            .filter(unknown)?;
        // The pod's own cgroup may still be known by the pod's other containers.
        let pod = member.pod_uid.as_deref().and_then(|uid| {
            let agrees = |entry: &&Entry| {
                let path = entry.details.cgroups_path.as_deref();
                path.is_some_and(|path| member.is_beside(path))
            };
            pod(&known, uid).filter(agrees)
        });
        let pod = pod
            .map(|entry| entry.details.container.clone())
            .unwrap_or_default();
        Some(Container {
            runtime: claim.runtime.map(str::to_owned),
            id: claim.id.clone(),
            pod: pod.pod,
            pod_namespace: pod.pod_namespace,
            owner: pod.owner,
            unproven: true,
            ..Container::default()
        })
    }

    /// The container or pod that a mount was made for, by the path of its mountpoint.
    #[must_use]
    pub fn container_of_mount_path(&self, path: &[u8]) -> Option<Container> {
        let known = self.bundles.known();
        let of = |entry: Option<&Entry>| entry.map(|entry| entry.details.container.clone());
        match mount_claim(path)?.owner? {
            MountOwner::Task {
                namespace,
                id,
                bundle,
            } => {
                let entry = known.at(&bundle).or_else(|| known.find(&id, Some(&namespace)));
                let runtime = if namespace == "moby" {
                    "docker"
                } else {
                    "containerd"
                };
                Some(of(entry).unwrap_or_else(|| bare(Some(runtime), &id, Some(&namespace))))
            }
            MountOwner::Sandbox { id, .. } => {
                let entry = known.find(&id, Some("k8s.io"));
                Some(of(entry).unwrap_or_else(|| bare(Some("containerd"), &id, Some("k8s.io"))))
            }
            MountOwner::Storage { id, userdata } => {
                let entry = known.at(&userdata).or_else(|| known.find(&id, None));
                Some(of(entry).unwrap_or_else(|| bare(None, &id, None)))
            }
            MountOwner::StorageLayer { layer, .. } => {
                of(of_layer(&known, &layer).or_else(|| of_root(&known, &format!("/overlay/{layer}/merged"))))
            }
            MountOwner::Docker { id, .. } => {
                Some(of(known.find(&id, None)).unwrap_or_else(|| bare(Some("docker"), &id, None)))
            }
            MountOwner::DockerLayer { layer, .. } => of(of_root(
                &known,
                &format!("/overlay2/{layer}/merged"),
            )
            .or_else(|| of_layer(&known, &layer))),
            MountOwner::Pod { uid } => of_pod(&known, &uid),
            MountOwner::NetworkNamespace { name } => {
                let same = |entry: &&Entry| entry.details.network_namespace.as_deref() == Some(&*name);
                of(known.iter().find(same))
            }
        }
    }

    /// Number of live processes of every container. A container that is missing here has none left.
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
            let Some(container) = self.of_cgroup(&cgroup) else {
                continue;
            };
            // A zombie keeps its cgroup, but nothing else.
            let stat = read_proc(&directory.join("stat"))
                .ok()
                .and_then(|text| proc_text::stat(&text));
            if stat.is_some_and(|stat| !stat.is_dead()) {
                *alive.entry(container.id).or_insert(0) += 1;
            }
        }
        alive
    }

    /// All known containers.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        let all = self.bundles.known().all();
        all.into_iter().map(found).collect()
    }

    /// Resolves a container id or a unique prefix of one, NAMESPACE/POD, containerd's NAMESPACE/ID, or the name of a
    /// container that belongs to no pod.
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
}

/// The container that a cgroup claims, if its runtime has it in that cgroup.
fn recorded<'k>(known: &'k Known, member: &Membership, claim: &CgroupClaim) -> Option<&'k Entry> {
    let entry = known.find(&claim.id, claim.namespace.as_deref())?;
    let path = entry.details.cgroups_path.as_deref();
    path.is_some_and(|path| member.is_in(path)).then_some(entry)
}

/// The pod's sandbox if there is one, else one of its containers.
fn pod<'k>(known: &'k Known, uid: &str) -> Option<&'k Entry> {
    let mut of_pod = known
        .iter()
        .filter(|entry| entry.details.pod_uid.as_deref() == Some(uid));
    let first = of_pod.next()?;
    if first.details.sandbox {
        return Some(first);
    }
    Some(of_pod.find(|entry| entry.details.sandbox).unwrap_or(first))
}

/// The pod's facts only, without those of a single container.
fn of_pod(known: &Known, uid: &str) -> Option<Container> {
    let entry = pod(known, uid)?;
    let mut container = entry.details.container.clone();
    if !entry.details.sandbox {
        container.name = None;
        container.image = None;
    }
    Some(container)
}

fn of_layer<'k>(known: &'k Known, layer: &str) -> Option<&'k Entry> {
    known.find(known.of_layer(layer)?, None)
}

fn of_root<'k>(known: &'k Known, end: &str) -> Option<&'k Entry> {
    let same = |entry: &&Entry| {
        entry
            .details
            .root
            .as_deref()
            .is_some_and(|root| root.ends_with(end))
    };
    known.iter().find(same)
}

/// The facts from the path alone.
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
