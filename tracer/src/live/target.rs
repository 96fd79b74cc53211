//! From what an umount was passed to the mount that it means.

use crate::{
    identity::Containers,
    kernel::{Kernel, Mount, PathText, Paths},
    live::{
        links,
        mounts::{Mounted, MountsView, NamespaceMounts},
        path_text::normalise,
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
        propagation: parent.map(|parent| parent.propagation()),
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
