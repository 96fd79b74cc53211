//! All mount namespaces with their mounts and mountpoints, as of one look.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    identity::Containers,
    kernel::{Kernel, MOUNTS_MAX, Mount, Paths, Place, shortened},
    model::Container,
    watchdog::{self, Step},
};

/// Mounts of others that are known at the most, in one namespace, and in all of one user: a pod has some tens.
const EACH_MOUNTS_MAX: usize = 4096;
const ALL_MOUNTS_MAX: usize = 16_384;
/// How long the namespaces of others are looked at at a time; then the look goes on with those that are known from before.
const OTHERS_FOR: Duration = Duration::from_millis(20);
/// A look at one of them is good for so many times what it took.
const REST: u32 = 20;

/// A mount with its place.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The mount.
    pub mount: Mount,
    /// Its mountpoint, from the top of its namespace.
    pub path: Vec<u8>,
    /// Only the host's superuser can have mounted it there: in a user namespace of their own anybody may mount anything
    /// at the path of somebody's container.
    pub by_root: bool,
}

impl Mounted {
    /// The container or pod that it was made for, by its path.
    #[must_use]
    pub fn container(&self, containers: &Containers) -> Option<Container> {
        self.by_root
            .then(|| containers.container_of_mount_path(&self.path))?
    }
}

/// The mounts of one namespace.
#[derive(Debug, Clone)]
pub struct NamespaceMounts {
    /// Address of the namespace.
    pub address: u64,
    /// Its number.
    pub number: u32,
    /// Parents before children.
    pub mounts: Vec<Mounted>,
    /// When it was looked at, and how long that took; `None` where that does not matter.
    pub look: Option<Look>,
}

/// A look at one namespace.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    began: Instant,
    took: Duration,
    /// All its mounts are known.
    whole: bool,
}

impl NamespaceMounts {
    /// The mount that a path names: the topmost one at that mountpoint.
    #[must_use]
    pub fn at(&self, path: &[u8]) -> Option<&Mounted> {
        // A mount on top of another one at the same place comes later.
        self.mounts.iter().rev().find(|mounted| mounted.path == path)
    }
}

/// Mounts that have no place.
#[derive(Debug, Clone, Default)]
pub struct Hidden {
    /// In anonymous namespaces.
    pub anonymous: Vec<Mount>,
    /// Taken out of their namespace.
    pub detached: Vec<Mount>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct MountsView {
    /// The host's (that of pid 1) first, then by number.
    pub namespaces: Vec<Arc<NamespaceMounts>>,
    /// Whether all could be read.
    pub complete: bool,
    /// How many namespaces have more mounts than are looked at, by the user who has them.
    pub crowded: BTreeMap<u32, u64>,
    /// By address: which namespace, and which of its mounts.
    places: HashMap<u64, (usize, usize)>,
    /// Which namespace has an address.
    by_address: HashMap<u64, usize>,
}

/// A namespace of others: when it was looked at, what was known of it then, which it is, and its root.
type OfOthers<'v> = (Option<Instant>, Option<&'v Arc<NamespaceMounts>>, (u64, u32), u64);

impl MountsView {
    /// Looks at the namespaces of all tasks.
    #[must_use]
    pub fn read(kernel: Kernel<'_>, task: u64) -> Self {
        Self::look(kernel, task, None)
    }

    /// Looks at them again. Those in which users mount who are not the host's superuser are looked at as far as there is
    /// time for it: a user may have 100,000 mounts in each, and the host does not wait for that.
    #[must_use]
    pub fn again(kernel: Kernel<'_>, task: u64, before: &Self) -> Self {
        Self::look(kernel, task, Some(before))
    }

    fn look(kernel: Kernel<'_>, task: u64, before: Option<&Self>) -> Self {
        let _step = watchdog::within(Step::Mounts, &[]);
        let tasks = kernel.tasks(task);
        let by_proxy = kernel.mount_namespaces(&tasks.all);
        let first = tasks
            .all
            .iter()
            .find(|task| task.tid == 1)
            .and_then(|task| by_proxy.get(&task.nsproxy))
            .copied();
        let addresses: HashSet<u64> = by_proxy
            .values()
            .copied()
            .filter(|address| *address != 0)
            .collect();
        let mut addresses: Vec<u64> = addresses.into_iter().collect();
        let numbers = kernel.namespace_numbers(&addresses);
        addresses.retain(|address| numbers.contains_key(address));
        addresses.sort_by_key(|address| (Some(*address) != first, numbers[address]));
        let roots = kernel.memory.words(&addresses, kernel.layout.table.mnt_ns_root);
        let owners = Owners::new(kernel, first);
        let mut view = Self {
            namespaces: Vec::with_capacity(addresses.len()),
            complete: tasks.complete,
            crowded: BTreeMap::new(),
            places: HashMap::new(),
            by_address: HashMap::new(),
        };
        let mut paths = Paths::new(kernel);
        let mut others = Vec::new();
        for (address, root) in addresses.into_iter().zip(roots) {
            let Some(root) = root else {
                view.complete = false;
                continue;
            };
            let namespace = (address, numbers[&address]);
            if let Some(before) = before.filter(|_| !owners.is_hosts(address)) {
                let known = before.known(namespace);
                let began = known.and_then(|known| known.look).map(|look| look.began);
                others.push((began, known, namespace, root));
            } else {
                view.add(&mut paths, &owners, namespace, root, MOUNTS_MAX);
            }
        }
        // Those that were not looked at for the longest time, and before them those that are new.
        others.sort_by_key(|(began, ..)| *began);
        view.add_others(kernel, &owners, others);
        view
    }

    fn known(&self, (address, number): (u64, u32)) -> Option<&Arc<NamespaceMounts>> {
        let known = self.namespaces.get(*self.by_address.get(&address)?)?;
        (known.number == number).then_some(known)
    }

    fn add_others(&mut self, kernel: Kernel<'_>, owners: &Owners<'_>, others: Vec<OfOthers<'_>>) {
        let began = Instant::now();
        let mut paths = Paths::new(kernel);
        let mut mounts: HashMap<Option<u32>, usize> = HashMap::new();
        for (_, known, namespace, root) in others {
            let account = owners.account(namespace.0);
            let had = mounts.entry(account).or_default();
            let room = EACH_MOUNTS_MAX.min(ALL_MOUNTS_MAX.saturating_sub(*had));
            let rests = |look: Look| look.began.elapsed() < look.took * REST;
            let known = known.filter(|known| known.mounts.len() <= room);
            let is_due = known.is_none_or(|known| !known.look.is_some_and(rests));
            if room > 0 && is_due && began.elapsed() < OTHERS_FOR {
                self.add(&mut paths, owners, namespace, root, room);
            } else if let Some(known) = known {
                self.push(Arc::clone(known));
            } else {
                self.complete = false;
                continue;
            }
            let added = self.namespaces.last();
            *had += added.map_or(0, |added| added.mounts.len());
            let whole = added.and_then(|added| added.look).is_none_or(|look| look.whole);
            if let Some(account) = account.filter(|_| !whole) {
                *self.crowded.entry(account).or_default() += 1;
            }
        }
    }

    fn add(
        &mut self,
        paths: &mut Paths<'_>,
        owners: &Owners<'_>,
        (address, number): (u64, u32),
        root: u64,
        most: usize,
    ) {
        let began = Instant::now();
        let tree = owners.kernel.mount_tree_of(root, most);
        let whole = tree.complete;
        self.complete &= whole;
        let mounts = place(paths, tree.items, owners.is_hosts(address));
        let took = began.elapsed();
        self.push(Arc::new(NamespaceMounts {
            address,
            number,
            mounts,
            look: Some(Look { began, took, whole }),
        }));
    }

    fn push(&mut self, namespace: Arc<NamespaceMounts>) {
        for (index, mounted) in namespace.mounts.iter().enumerate() {
            let place = (self.namespaces.len(), index);
            self.places.entry(mounted.mount.address).or_insert(place);
        }
        self.by_address.insert(namespace.address, self.namespaces.len());
        self.namespaces.push(namespace);
    }

    /// Adds the namespaces that no task is in: only a descriptor or a bind mount keeps them. Mounts lead to them, so all
    /// mounts of the host are looked at. `None` where those cannot be found.
    pub fn add_hidden(&mut self, kernel: Kernel<'_>) -> Option<Hidden> {
        let superblocks = self.all().map(|(_, mounted)| mounted.mount.superblock).collect();
        let all = kernel.all_mounts(&superblocks)?;
        self.complete &= all.complete;
        let known: HashSet<u64> = self
            .namespaces
            .iter()
            .map(|namespace| namespace.address)
            .collect();
        let mut hidden = Hidden::default();
        let mut elsewhere: BTreeMap<u64, Vec<Mount>> = BTreeMap::new();
        for mount in all.mounts {
            match kernel.place(&mount) {
                Place::Namespace(address) if !known.contains(&address) => {
                    elsewhere.entry(address).or_default().push(mount);
                }
                Place::Detached => hidden.detached.push(mount),
                Place::Namespace(_) | Place::Internal => {}
            }
        }
        let addresses: Vec<u64> = elsewhere.keys().copied().collect();
        let roots = kernel.namespace_roots(&addresses);
        let owners = Owners::new(kernel, self.namespaces.first().map(|first| first.address));
        let mut paths = Paths::new(kernel);
        for ((address, mounts), root) in elsewhere.into_iter().zip(roots) {
            match root {
                // Else it has ended meanwhile. Of the uppermost file system no list tells: it is of no registered type.
                Some((Some(number), root))
                    if kernel.mount(root).is_some_and(|root| root.namespace == address) =>
                {
                    self.add(&mut paths, &owners, (address, number), root, MOUNTS_MAX);
                }
                Some((None, _)) => hidden.anonymous.extend(mounts),
                _ => {}
            }
        }
        Some(hidden)
    }

    /// A namespace by its number.
    #[must_use]
    pub fn namespace(&self, number: u32) -> Option<&NamespaceMounts> {
        self.namespaces
            .iter()
            .map(Arc::as_ref)
            .find(|namespace| namespace.number == number)
    }

    /// Mountpoints in a namespace, as far as only the host's superuser mounts there.
    pub fn paths_of(&self, number: Option<u32>) -> impl Iterator<Item = &[u8]> {
        let namespace = number.and_then(|number| self.namespace(number));
        let mounts = namespace.into_iter().flat_map(|namespace| &namespace.mounts);
        mounts
            .filter(|mounted| mounted.by_root)
            .map(|mounted| mounted.path.as_slice())
    }

    /// A mount by its address.
    #[must_use]
    pub fn mount(&self, address: u64) -> Option<(&NamespaceMounts, &Mounted)> {
        let (namespace, mounted) = *self.places.get(&address)?;
        let namespace = self.namespaces.get(namespace)?;
        Some((namespace, namespace.mounts.get(mounted)?))
    }

    /// All mounts.
    pub fn all(&self) -> impl Iterator<Item = (&NamespaceMounts, &Mounted)> {
        self.namespaces
            .iter()
            .map(Arc::as_ref)
            .flat_map(|namespace| namespace.mounts.iter().map(move |mounted| (namespace, mounted)))
    }

    /// The same, for whoever takes the first of several copies: before those that came by propagation. The numbers of
    /// namespaces, by which they are in order, are used again, and say nothing of which was there first.
    pub fn originals_first(&self) -> impl Iterator<Item = (&NamespaceMounts, &Mounted)> {
        let came_by_propagation = |mounted: &Mounted| mounted.mount.master != 0;
        let originals = self
            .all()
            .filter(move |(_, mounted)| !came_by_propagation(mounted));
        originals.chain(
            self.all()
                .filter(move |(_, mounted)| came_by_propagation(mounted)),
        )
    }
}

/// Whose mount namespaces are.
struct Owners<'k> {
    kernel: Kernel<'k>,
    /// The user namespace of the host's own.
    host: Option<u64>,
}

impl<'k> Owners<'k> {
    fn new(kernel: Kernel<'k>, host: Option<u64>) -> Self {
        let host = host.and_then(|host| kernel.namespace_owners(&[host]).pop().flatten());
        Self { kernel, host }
    }

    /// Whether only the host's superuser mounts in a namespace. Where that is not to be known, all are taken for such.
    fn is_hosts(&self, namespace: u64) -> bool {
        let owner = self.kernel.namespace_owners(&[namespace]).pop().flatten();
        self.host.is_none() || owner == self.host
    }

    /// Who pays for the mounts of a namespace.
    fn account(&self, namespace: u64) -> Option<u32> {
        let owner = self.kernel.namespace_owners(&[namespace]).pop().flatten()?;
        self.kernel.account(owner)
    }
}

/// Mountpoints of a tree, parents before children: each is that of its parent and the way from there.
fn place(paths: &mut Paths<'_>, mounts: Vec<Mount>, by_root: bool) -> Vec<Mounted> {
    paths.load(&mounts.iter().map(|mount| mount.mountpoint).collect::<Vec<_>>());
    // By address, where each is in what was placed.
    let mut known: HashMap<u64, usize> = HashMap::new();
    let mut placed: Vec<Mounted> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let parent = known.get(&mount.parent).and_then(|index| placed.get(*index));
        let path = match parent {
            None => b"/".to_vec(),
            Some(parent) => {
                let Some((inside, _)) = paths.in_mount(parent.mount.root, mount.mountpoint) else {
                    continue;
                };
                // Mounts below mounts below mounts: the length of each would be that of all above it.
                shortened(join(&parent.path, &inside.shown())).shown()
            }
        };
        known.insert(mount.address, placed.len());
        placed.push(Mounted { mount, path, by_root });
    }
    placed
}

fn join(parent: &[u8], inside: &[u8]) -> Vec<u8> {
    match (parent, inside) {
        (parent, b"/") => parent.to_vec(),
        (b"/", inside) => inside.to_vec(),
        (parent, inside) => [parent, inside].concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Mounted, MountsView, NamespaceMounts, join};
    use crate::kernel::Mount;

    #[test]
    fn a_copy_in_a_namespace_of_a_lower_number_comes_after_the_original() {
        let namespace = |number, masters: &[u64]| NamespaceMounts {
            address: 0,
            number,
            mounts: masters
                .iter()
                .map(|master| Mounted {
                    mount: Mount {
                        master: *master,
                        ..Mount::default()
                    },
                    path: b"/run/rootfs".to_vec(),
                    by_root: true,
                })
                .collect(),
            look: None,
        };
        let view = MountsView {
            namespaces: [namespace(1, &[0, 7]), namespace(2, &[8]), namespace(3, &[0])]
                .map(Arc::new)
                .into(),
            ..MountsView::default()
        };
        let order = view.originals_first();
        let order: Vec<_> = order
            .map(|(of, mounted)| (of.number, mounted.mount.master))
            .collect();
        assert_eq!(order, [(1, 0), (3, 0), (1, 7), (2, 8)]);
    }

    #[test]
    fn paths_join_without_double_slashes() {
        assert_eq!(join(b"/", b"/"), b"/");
        assert_eq!(join(b"/", b"/run"), b"/run");
        assert_eq!(join(b"/run", b"/"), b"/run");
        assert_eq!(join(b"/run", b"/x"), b"/run/x");
    }
}
