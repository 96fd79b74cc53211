//! Where a path is, whatever is mounted of it and where: two paths of different namespaces are the same place if they
//! are on the same file system and have the same path there. Nothing is looked up: texts, mounts and dentries tell.

use std::collections::{HashMap, HashSet};

use super::{
    links,
    mounts::{Mounted, MountsView, NamespaceMounts},
};
use crate::kernel::{Kernel, PathText, Paths};

/// A name on a file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Address of the superblock.
    pub(super) superblock: u64,
    /// Path from the root of the file system.
    pub(super) path: Vec<u8>,
}

/// Places by their dentries, remembered for one look.
pub(super) struct Places<'k> {
    kernel: Kernel<'k>,
    paths: Paths<'k>,
    known: HashMap<u64, Option<Place>>,
}

impl<'k> Places<'k> {
    pub(super) fn new(kernel: Kernel<'k>) -> Self {
        Self {
            kernel,
            paths: Paths::new(kernel),
            known: HashMap::new(),
        }
    }

    /// The place of a dentry.
    pub(super) fn of_dentry(&mut self, dentry: u64) -> Option<Place> {
        if let Some(known) = self.known.get(&dentry) {
            return known.clone();
        }
        let place = self
            .kernel
            .superblock_at(dentry)
            .zip(self.paths.in_superblock(dentry).and_then(PathText::whole))
            .map(|(superblock, path)| Place { superblock, path });
        self.known.insert(dentry, place.clone());
        place
    }

    /// The place of an absolute path of a namespace; `into_last` says whether what is mounted right there is meant, or
    /// the directory below it.
    pub(super) fn of_path(
        &mut self,
        namespace: &NamespaceMounts,
        path: &[u8],
        into_last: bool,
    ) -> Option<Place> {
        let (mounted, rest) = on_mount(namespace, path, into_last)?;
        let root = self.of_dentry(mounted.mount.root)?;
        let path = match (root.path.as_slice(), rest) {
            (root, b"" | b"/") => root.to_vec(),
            (b"/", rest) => rest.to_vec(),
            (root, rest) => [root, rest].concat(),
        };
        Some(Place {
            superblock: root.superblock,
            path,
        })
    }

    /// What is mounted on a place in a namespace, from the bottom.
    pub(super) fn mounted_on<'v>(
        &mut self,
        view: &MountsView,
        namespace: &'v NamespaceMounts,
        place: &Place,
    ) -> Vec<&'v Mounted> {
        let name = last_component(&place.path);
        let mounts = namespace.mounts.iter().skip(1).filter(|mounted| {
            // To look for its parent costs more.
            (last_component(&mounted.path) == name || name.is_empty())
                && (view.mount(mounted.mount.parent))
                    .is_some_and(|(_, parent)| parent.mount.superblock == place.superblock)
        });
        mounts
            .filter(|mounted| self.of_dentry(mounted.mount.mountpoint).as_ref() == Some(place))
            .collect()
    }
}

/// The mount that a path leads to, by the mounts on the way, and what is left of the path on it.
#[must_use]
pub fn on_mount<'v, 'p>(
    namespace: &'v NamespaceMounts,
    path: &'p [u8],
    into_last: bool,
) -> Option<(&'v Mounted, &'p [u8])> {
    let root = namespace.mounts.first()?;
    let mut above: HashMap<u64, Vec<&Mounted>> = HashMap::new();
    for mounted in &namespace.mounts {
        above.entry(mounted.mount.parent).or_default().push(mounted);
    }
    // Mounts that were read at different moments may be on top of each other: none is passed twice.
    let mut passed = HashSet::new();
    let mut top = |mut mounted: &'v Mounted, path: &[u8]| {
        // What is mounted on top of a mount is at the same path.
        while passed.insert((mounted.mount.address, path.len()))
            && let Some(above) = (above.get(&mounted.mount.address).into_iter().flatten())
                .find(|above| above.mount.address != mounted.mount.address && above.path == path)
        {
            mounted = above;
        }
        mounted
    };
    let mut at = top(root, b"/");
    let mut rest = path;
    for end in links::component_ends(path) {
        if end == path.len() && !into_last {
            break;
        }
        let next = top(at, &path[..end]);
        if next.mount.address != at.mount.address {
            at = next;
            rest = &path[end..];
        }
    }
    Some((at, rest))
}

fn last_component(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{last_component, on_mount};
    use crate::{
        kernel::Mount,
        live::mounts::{Mounted, NamespaceMounts},
    };

    fn mounted(address: u64, parent: u64, path: &str) -> Mounted {
        Mounted {
            mount: Mount {
                address,
                parent,
                mountpoint: 0,
                root: 0,
                superblock: 0,
                id: address as u32,
                unique: None,
                namespace: 1,
                group: 0,
                master: 0,
                per_cpu: 0,
                flags: 0,
                first_child: 0,
                device_name: 0,
                mountpoint_object: 0,
            },
            path: path.into(),
            by_root: true,
        }
    }

    /// As `pivot_root(".", ".")` leaves them where each is read at another moment.
    #[test]
    fn mounts_on_top_of_each_other_are_passed_once() {
        for ring in 1..4 {
            let mut mounts: Vec<_> = (1..=ring)
                .map(|address| mounted(address, address % ring + 1, "/"))
                .collect();
            mounts.push(mounted(9, 1, "/a"));
            let namespace = NamespaceMounts {
                address: 1,
                number: 1,
                mounts,
                look: None,
            };
            let (found, rest) = on_mount(&namespace, b"/a/b", true).unwrap();
            assert!(found.mount.address <= ring || rest == b"/b", "{found:?}");
        }
    }

    #[test]
    fn a_path_leads_through_the_mounts_that_are_seen() {
        let namespace = NamespaceMounts {
            address: 1,
            number: 1,
            mounts: vec![
                mounted(1, 1, "/"),
                mounted(2, 1, "/a"),
                mounted(3, 2, "/a/b"),
                // On top of /a: what was below is hidden.
                mounted(4, 2, "/a"),
                mounted(5, 4, "/a/c"),
            ],
            look: None,
        };
        let on = |path: &'static str, into_last| {
            let (mounted, rest) = on_mount(&namespace, path.as_bytes(), into_last).unwrap();
            (mounted.mount.address, std::str::from_utf8(rest).unwrap())
        };
        assert_eq!(on("/x/y", true), (1, "/x/y"));
        assert_eq!(on("/a/b/z", true), (4, "/b/z"));
        assert_eq!(on("/a/c", true), (5, ""));
        assert_eq!(on("/a/c", false), (4, "/c"));
        assert_eq!(on("/a", false), (1, "/a"));
        assert_eq!(on("/", true), (1, "/"));
        assert_eq!(last_component(b"/a/c"), b"c");
        assert_eq!(last_component(b"/"), b"");
    }
}
