//! From what an umount was passed to the mount that it means.

use crate::{
    identity::Containers,
    kernel::{Kernel, Mount, PathText, Paths},
    live::{
        links,
        mounts::{Mounted, MountsView, NamespaceMounts},
    },
    model::{Target, Text},
    stream::{MountKey, RawUmount},
};

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
    Some(absolute_from(kernel, passed, umount.cwd, umount.root))
}

/// The absolute path, from the top of the namespace, of one that begins at a directory or at a root: mount and dentry
/// of each.
#[must_use]
pub(super) fn absolute_from(
    kernel: Kernel<'_>,
    passed: &[u8],
    directory: (u64, u64),
    root: (u64, u64),
) -> Vec<u8> {
    let mut paths = Paths::new(kernel);
    let (mount, dentry) = if passed.first() == Some(&b'/') {
        root
    } else {
        directory
    };
    let base = paths
        .seen_from(mount, dentry, None)
        .and_then(PathText::whole)
        .unwrap_or_else(|| b"/".to_vec());
    // `..` does not lead out of the caller's root.
    let root = paths
        .seen_from(root.0, root.1, None)
        .and_then(PathText::whole)
        .unwrap_or_else(|| b"/".to_vec());
    normalise(&base, passed, &root)
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

/// A path with the component between two places replaced by the target of the link that it is.
pub(super) fn replaced(path: &[u8], start: usize, end: usize, target: &[u8]) -> Vec<u8> {
    let base = if target.first() == Some(&b'/') {
        &b"/"[..]
    } else {
        &path[..start]
    };
    normalise(base, &[target, &path[end..]].concat(), b"/")
}

/// The mount at a path of a namespace. Where nothing is mounted right there, links are followed, in our own namespace
/// only.
#[must_use]
pub(super) fn at_path<'v>(
    namespace: &'v NamespaceMounts,
    path: &[u8],
    own: bool,
    last: bool,
) -> Option<&'v Mounted> {
    namespace.at(path).or_else(|| {
        if own {
            namespace.at(&links::follow(namespace, path, last))
        } else {
            None
        }
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
        container: mounted.container(containers),
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
    use super::{normalise, replaced};

    #[test]
    fn a_link_is_replaced_where_it_is() {
        assert_eq!(replaced(b"/var/run/x", 4, 8, b"/run"), b"/run/x");
        assert_eq!(replaced(b"/a/b/c", 2, 4, b"../d"), b"/d/c");
        assert_eq!(replaced(b"/link", 0, 5, b"a/b"), b"/a/b");
        assert_eq!(replaced(b"/a/link", 2, 7, b""), b"/a");
    }

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
