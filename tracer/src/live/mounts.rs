//! All mount namespaces with their mounts and mountpoints, as of one look.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    identity::Containers,
    kernel::{Kernel, Mount, Paths, Place, shortened},
    model::Container,
    watchdog::{self, Step},
};

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
    pub namespaces: Vec<NamespaceMounts>,
    /// Whether all could be read.
    pub complete: bool,
    /// By address: which namespace, and which of its mounts.
    places: HashMap<u64, (usize, usize)>,
}

impl MountsView {
    /// Looks at the namespaces of all tasks.
    #[must_use]
    pub fn read(kernel: Kernel<'_>, task: u64) -> Self {
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
            places: HashMap::new(),
        };
        let mut paths = Paths::new(kernel);
        for (address, root) in addresses.into_iter().zip(roots) {
            match root {
                Some(root) => view.add(&mut paths, &owners, (address, numbers[&address]), root),
                None => view.complete = false,
            }
        }
        view
    }

    fn add(&mut self, paths: &mut Paths<'_>, owners: &Owners<'_>, (address, number): (u64, u32), root: u64) {
        let (mounts, whole) = owners.kernel.mount_tree(root);
        self.complete &= whole;
        let mounts = place(paths, mounts, owners.is_hosts(address));
        for (index, mounted) in mounts.iter().enumerate() {
            let place = (self.namespaces.len(), index);
            self.places.entry(mounted.mount.address).or_insert(place);
        }
        self.namespaces.push(NamespaceMounts {
            address,
            number,
            mounts,
        });
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
                    self.add(&mut paths, &owners, (address, number), root);
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
        };
        let view = MountsView {
            namespaces: vec![namespace(1, &[0, 7]), namespace(2, &[8]), namespace(3, &[0])],
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
