//! All mount namespaces with their mounts and mountpoints, as of one look.

use std::collections::{HashMap, HashSet};

use crate::kernel::{Kernel, Mount, Paths};

/// A mount with its place.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The mount.
    pub mount: Mount,
    /// Its mountpoint, from the top of its namespace.
    pub path: Vec<u8>,
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

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct MountsView {
    /// The host's (that of pid 1) first, then by number.
    pub namespaces: Vec<NamespaceMounts>,
    /// Whether all could be read.
    pub complete: bool,
}

impl MountsView {
    /// Looks at the namespaces of all tasks.
    #[must_use]
    pub fn read(kernel: Kernel<'_>, task: u64) -> Self {
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
        let mut paths = Paths::new(kernel);
        let mut complete = tasks.complete;
        let mut namespaces = Vec::with_capacity(addresses.len());
        for (address, root) in addresses.into_iter().zip(roots) {
            let Some(root) = root else {
                complete = false;
                continue;
            };
            let (mounts, whole) = kernel.mount_tree(root);
            complete &= whole;
            let mounts = place(&mut paths, mounts);
            namespaces.push(NamespaceMounts {
                address,
                number: numbers[&address],
                mounts,
            });
        }
        Self { namespaces, complete }
    }

    /// A namespace by its number.
    #[must_use]
    pub fn namespace(&self, number: u32) -> Option<&NamespaceMounts> {
        self.namespaces
            .iter()
            .find(|namespace| namespace.number == number)
    }

    /// A mount by its address.
    #[must_use]
    pub fn mount(&self, address: u64) -> Option<(&NamespaceMounts, &Mounted)> {
        self.namespaces.iter().find_map(|namespace| {
            let mounted = namespace
                .mounts
                .iter()
                .find(|mounted| mounted.mount.address == address)?;
            Some((namespace, mounted))
        })
    }

    /// All mounts.
    pub fn all(&self) -> impl Iterator<Item = (&NamespaceMounts, &Mounted)> {
        self.namespaces
            .iter()
            .flat_map(|namespace| namespace.mounts.iter().map(move |mounted| (namespace, mounted)))
    }
}

/// Mountpoints of a tree, parents before children: each is that of its parent and the way from there.
fn place(paths: &mut Paths<'_>, mounts: Vec<Mount>) -> Vec<Mounted> {
    paths.load(&mounts.iter().map(|mount| mount.mountpoint).collect::<Vec<_>>());
    let mut known: HashMap<u64, (u64, Vec<u8>)> = HashMap::new();
    let mut placed = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let path = match known.get(&mount.parent) {
            None => b"/".to_vec(),
            Some((parent_root, parent)) => {
                let Some((inside, _)) = paths.in_mount(*parent_root, mount.mountpoint) else {
                    continue;
                };
                join(parent, &inside)
            }
        };
        known.insert(mount.address, (mount.root, path.clone()));
        placed.push(Mounted { mount, path });
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
    use super::join;

    #[test]
    fn paths_join_without_double_slashes() {
        assert_eq!(join(b"/", b"/"), b"/");
        assert_eq!(join(b"/", b"/run"), b"/run");
        assert_eq!(join(b"/run", b"/"), b"/run");
        assert_eq!(join(b"/run", b"/x"), b"/run/x");
    }
}
