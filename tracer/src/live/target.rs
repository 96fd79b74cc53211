//! From what an umount was passed to the mount that it means.

use crate::{
    identity::Containers,
    kernel::{Kernel, Mount, Paths},
    live::mounts::{Mounted, MountsView, NamespaceMounts},
    model::{Target, Text},
    stream::{MountKey, RawUmount},
};

/// Symbolic links followed at the most (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// The key of a mount in the stream.
#[must_use]
pub fn mount_key(mount: &Mount) -> MountKey {
    MountKey {
        address: mount.address,
        id: mount.id,
        unique: mount.unique,
    }
}

/// The absolute path, from the top of the caller's namespace, that an umount was passed. No link is followed.
#[must_use]
pub(super) fn absolute(kernel: Kernel<'_>, umount: &RawUmount) -> Option<Vec<u8>> {
    let passed = umount.path.as_deref()?;
    let mut paths = Paths::new(kernel);
    let (mount, dentry) = if passed.first() == Some(&b'/') {
        umount.root
    } else {
        umount.cwd
    };
    let base = paths
        .seen_from(mount, dentry, None)
        .unwrap_or_else(|| b"/".to_vec());
    // `..` does not lead out of the caller's root.
    let root = paths
        .seen_from(umount.root.0, umount.root.1, None)
        .unwrap_or_else(|| b"/".to_vec());
    Some(normalise(&base, passed, &root))
}

/// Joins and removes `.`, `..` and double slashes.
fn normalise(base: &[u8], passed: &[u8], root: &[u8]) -> Vec<u8> {
    fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
    }
    let floor = components(root).count();
    let mut parts: Vec<&[u8]> = components(base).collect();
    for part in components(passed) {
        if part == b".." {
            if parts.len() > floor {
                parts.pop();
            }
        } else {
            parts.push(part);
        }
    }
    let mut path = Vec::new();
    for part in &parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// The mount at a path of a namespace. Where nothing is mounted right there, links are followed, in our own namespace
/// only, and never into a mount below the first component that is one: nothing watched is ever walked.
#[must_use]
pub(super) fn at_path<'v>(namespace: &'v NamespaceMounts, path: &[u8], own: bool) -> Option<&'v Mounted> {
    namespace.at(path).or_else(|| {
        if own {
            namespace.at(&resolve_links(namespace, path)?)
        } else {
            None
        }
    })
}

fn resolve_links(namespace: &NamespaceMounts, path: &[u8]) -> Option<Vec<u8>> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        let ends: Vec<usize> = (1..=path.len())
            .filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'))
            .collect();
        let link = ends.iter().find_map(|end| {
            let prefix = &path[..*end];
            // What is mounted there may hang, or be what we are asked about.
            if crossed(namespace, prefix) {
                return None;
            }
            let target = std::fs::read_link(std::ffi::OsStr::from_bytes(prefix)).ok()?;
            Some((*end, target.into_os_string().into_vec()))
        });
        let Some((end, target)) = link else {
            return Some(path);
        };
        let cut = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let base = if target.first() == Some(&b'/') {
            b"/".to_vec()
        } else {
            path[..cut].to_vec()
        };
        let rest = [target.as_slice(), &path[end..]].concat();
        path = normalise(&base, &rest, b"/");
    }
    None
}

/// Whether a path lies in a mount other than those that a host always has at hand.
fn crossed(namespace: &NamespaceMounts, path: &[u8]) -> bool {
    const LOCAL: [&[u8]; 5] = [b"/", b"/run", b"/var", b"/tmp", b"/dev"];
    namespace.mounts.iter().any(|mounted| {
        !LOCAL.contains(&mounted.path.as_slice())
            && path.starts_with(&mounted.path)
            && path.get(mounted.path.len()).is_none_or(|byte| *byte == b'/')
    })
}

/// All that is to be said of a target.
#[must_use]
pub fn describe(
    kernel: Kernel<'_>,
    containers: &Containers,
    view: &MountsView,
    namespace: &NamespaceMounts,
    mounted: &Mounted,
) -> Target {
    let mount = &mounted.mount;
    let superblock = kernel.superblock(mount.superblock);
    let parent = match view.mount(mount.parent) {
        Some((_, parent)) => Some(parent.mount.clone()),
        None => kernel.mount(mount.parent),
    };
    let path = Text::from(mounted.path.clone());
    Target {
        path_base64: path.base64_if_lossy(),
        path,
        mount_id: Some(mount.id),
        fs_type: superblock.as_ref().map(|superblock| superblock.fs_type.clone()),
        source: kernel.device_name(mount).map(Text::from),
        device: superblock.map(|superblock| superblock.device),
        mount_namespace: Some(namespace.number),
        propagation: parent.map(|parent| parent.propagation().to_owned()),
        container: containers.container_of_mount_path(&mounted.path),
    }
}

/// A target of which only the path is known.
#[must_use]
pub(super) fn unknown(path: Option<&[u8]>, namespace: Option<u32>) -> Target {
    let path = Text::from(path.unwrap_or_default());
    Target {
        path_base64: path.base64_if_lossy(),
        path,
        mount_id: None,
        fs_type: None,
        source: None,
        device: None,
        mount_namespace: namespace,
        propagation: None,
        container: None,
    }
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn paths_are_normalised_within_the_callers_root() {
        assert_eq!(normalise(b"/", b"/run//x/./y/", b"/"), b"/run/x/y");
        assert_eq!(normalise(b"/srv/jail", b"/mnt", b"/srv/jail"), b"/srv/jail/mnt");
        assert_eq!(normalise(b"/a/b", b"../c", b"/"), b"/a/c");
        assert_eq!(
            normalise(b"/srv/jail", b"/../../etc", b"/srv/jail"),
            b"/srv/jail/etc"
        );
        assert_eq!(normalise(b"/a", b".", b"/"), b"/a");
        assert_eq!(normalise(b"/", b"/", b"/"), b"/");
    }
}
