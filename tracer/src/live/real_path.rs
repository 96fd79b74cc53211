//! The path without its symbolic links, as umount(8) follows them, in any mount namespace: from the kernel's cache of
//! names, so that nothing is looked up and no mount is referred to.

use super::{
    links::{self, Component},
    mounts::{Mounted, NamespaceMounts},
    path_text::replaced,
    place::on_mount,
};
use crate::kernel::{CachedName, Kernel};

/// Links followed at the most (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealPath {
    /// Here, as far as there are links in it that the kernel knows.
    Known(Vec<u8>),
    /// There is a link in it, right here, whose text is not in memory; or too many of them.
    Unknown(Vec<u8>),
}

/// One step.
enum Step {
    Arrived,
    Link(Vec<u8>),
    Unknown(Vec<u8>),
}

/// Follows the links of a path in a namespace. What is not in the kernel's memory (the text of links of some file systems),
/// or too much of it (names of a large directory), is looked up in our own namespace, as far as that cannot be a reference.
#[must_use]
pub fn real_path(
    kernel: Kernel<'_>,
    namespace: &NamespaceMounts,
    path: &[u8],
    own: Option<&NamespaceMounts>,
) -> RealPath {
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        match step(kernel, namespace, &path, own) {
            Step::Arrived => return RealPath::Known(path),
            Step::Link(next) => path = next,
            Step::Unknown(at) => return RealPath::Unknown(at),
        }
    }
    RealPath::Unknown(path)
}

fn step(kernel: Kernel<'_>, namespace: &NamespaceMounts, path: &[u8], own: Option<&NamespaceMounts>) -> Step {
    // What something is mounted on is no link.
    let Some((mounted, rest)) = on_mount(namespace, path, true) else {
        return Step::Arrived;
    };
    let mut directory = Some(mounted.mount.root);
    let base = path.len() - rest.len();
    let mut start = base;
    for end in links::component_ends(rest).map(|end| base + end) {
        let Some(name) = path.get(start..end).and_then(|name| name.strip_prefix(b"/")) else {
            return Step::Arrived;
        };
        let cached = directory.map_or(CachedName::Unknown, |directory| {
            kernel.cached_name(directory, name)
        });
        let link = match cached {
            // What nobody asked for lately is not what an umount was just refused for.
            CachedName::None => return Step::Arrived,
            CachedName::Other(next) => {
                directory = Some(next);
                None
            }
            CachedName::Link(target) => Some(target),
            CachedName::Unknown => {
                let Some((own, here)) =
                    own.and_then(|own| Some((own, same_place(own, mounted, &path[base..end])?)))
                else {
                    return Step::Unknown(path[..end].to_vec());
                };
                match links::at(own, &here) {
                    Some(Component::Link(target)) => Some(target),
                    Some(Component::Directory(_)) => {
                        directory = None;
                        None
                    }
                    None => return Step::Arrived,
                }
            }
        };
        if let Some(target) = link {
            return Step::Link(replaced(path, start, end, &target));
        }
        start = end;
    }
    Step::Arrived
}

/// The path in our own namespace of what lies in a mount of any namespace, where the same directory is mounted in ours.
fn same_place(own: &NamespaceMounts, mounted: &Mounted, inside: &[u8]) -> Option<Vec<u8>> {
    let same = own
        .mounts
        .iter()
        .filter(|ours| ours.mount.root == mounted.mount.root);
    let mut paths = same.map(|ours| match ours.path.as_slice() {
        b"/" => inside.to_vec(),
        path => [path, inside].concat(),
    });
    // Nothing else is mounted on the way.
    paths.find(|path| on_mount(own, path, true).is_some_and(|(on, _)| on.mount.root == mounted.mount.root))
}
