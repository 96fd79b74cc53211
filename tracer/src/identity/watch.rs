//! Selects the mounts of container runtimes and of the kubelet, by path.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The default globs. All begin with `**/`: a copy of the host's tree below `/host`, a runtime with another root
/// directory and a node that is a container itself have the same paths behind a prefix.
const PATTERNS: &[&str] = &[
    // containerd: root file systems of tasks, and mounts made on them from outside.
    "**/io.containerd.runtime.v*.task/*/*/rootfs",
    "**/io.containerd.runtime.v*.task/*/*/rootfs/**",
    "**/io.containerd.runtime.v1.linux/*/*/rootfs",
    // containerd: images while they are unpacked, id-mapped layers, remote snapshotters.
    "**/containerd/tmpmounts/*",
    "**/containerd-mount*",
    "**/ovl-idmapped*",
    "**/ovl-idmapped*/**",
    "**/io.containerd.snapshotter.v1.*/snapshots/*/*",
    // containerd's CRI plugin.
    "**/io.containerd.grpc.v1.cri/sandboxes/*/shm",
    "**/io.containerd.grpc.v1.cri/image-volumes/**",
    // Docker.
    "**/docker/overlay2/*/merged",
    "**/docker/overlay2/*/merged/**",
    "**/docker/rootfs/*/*",
    "**/docker/rootfs/*/*/**",
    "**/docker/fuse-overlayfs/*/merged",
    "**/docker/devicemapper/mnt/*",
    "**/docker/zfs/graph/*",
    "**/docker/containers/*/mounts/*",
    "**/docker/plugins/*/*",
    "**/docker/volumes/*/_data",
    "**/docker/netns/*",
    "**/buildkit-mount*",
    // CRI-O and Podman.
    "**/containers/storage/overlay/*/merged",
    "**/containers/storage/overlay/*/merged/**",
    "**/containers/storage/overlay-containers/*/userdata/*",
    "**/containers/storage/volumes/*/_data",
    // kubelet and CSI drivers.
    "**/kubelet/pods/*/volumes/*/*",
    "**/kubelet/pods/*/volumes/*/*/**",
    "**/kubelet/pods/*/volume-subpaths/**",
    "**/kubelet/pods/*/volumeDevices/*/*",
    "**/kubelet/plugins/**/globalmount",
    "**/kubelet/plugins/**/mounts/*",
    "**/kubelet/plugins/**/volumeDevices/**",
    // Namespaces that are kept by a mount.
    "**/run/netns/*",
    "**/run/utsns/*",
    "**/run/ipcns/*",
    "**/run/userns/*",
    "**/run/pidns/*",
];

/// The default globs of container and kubelet mounts; `*` and `?` match no `/`.
#[must_use]
pub fn watch_patterns() -> &'static [&'static str] {
    PATTERNS
}

/// A compiled set of globs for paths of mounts.
#[derive(Debug, Clone)]
pub struct WatchPatterns {
    set: GlobSet,
}

impl WatchPatterns {
    /// The default patterns and those given.
    pub fn with(extra: &[String]) -> Result<Self, globset::Error> {
        Self::compile(PATTERNS.iter().copied().chain(extra.iter().map(String::as_str)))
    }

    /// Only those given.
    pub fn only(globs: &[String]) -> Result<Self, globset::Error> {
        Self::compile(globs.iter().map(String::as_str))
    }

    /// True if the path of a mount matches one of the patterns.
    #[must_use]
    pub fn is_match(&self, path: &[u8]) -> bool {
        self.set.is_match(OsStr::from_bytes(path))
    }

    /// True if a path is a watched mount or lies below one, so that nothing may be opened there.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        let mut ends = path
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, byte)| **byte == b'/')
            .map(|(end, _)| end);
        self.is_match(path) || ends.any(|end| path.get(..end).is_some_and(|ancestor| self.is_match(ancestor)))
    }

    fn compile<'a>(globs: impl Iterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut builder = GlobSetBuilder::new();
        for glob in globs {
            builder.add(GlobBuilder::new(glob).literal_separator(true).build()?);
        }
        Ok(Self {
            set: builder.build()?,
        })
    }
}

impl Default for WatchPatterns {
    fn default() -> Self {
        // The default patterns compile (see the test); an empty set would merely show nothing by default.
        Self::compile(PATTERNS.iter().copied()).unwrap_or_else(|_| Self {
            set: GlobSet::empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::WatchPatterns;

    #[test]
    fn mounts_of_runtimes_and_kubelet() {
        let watch = WatchPatterns::with(&[]).unwrap();
        for path in [
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs/proc/acpi",
            "/run/k3s/containerd/io.containerd.runtime.v2.task/default/web/rootfs",
            "/host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs",
            "/var/lib/containerd/tmpmounts/containerd-mount3141592653",
            "/tmp/containerd-mount123",
            "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/9c41/shm",
            "/var/lib/docker/overlay2/abc/merged",
            "/var/lib/docker/rootfs/overlayfs/9c41",
            "/var/lib/docker/containers/9c41/mounts/shm",
            "/var/lib/containers/storage/overlay/abc/merged",
            "/var/lib/containers/storage/overlay-containers/9c41/userdata/shm",
            "/run/containers/storage/overlay-containers/9c41/userdata/shm",
            "/var/lib/kubelet/pods/0f3c/volumes/kubernetes.io~projected/kube-api-access-x",
            "/var/lib/kubelet/pods/0f3c/volumes/kubernetes.io~csi/pvc-1/mount",
            "/var/lib/kubelet/pods/0f3c/volume-subpaths/conf/main/0",
            "/var/lib/kubelet/plugins/kubernetes.io/csi/driver/hash/globalmount",
            "/run/netns/cni-1",
            "/var/run/netns/cni-1",
            "/run/docker/netns/1-abc",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs/a\nb",
        ] {
            assert!(watch.is_match(path.as_bytes()), "{path}");
        }
        for path in [
            "/",
            "/mnt",
            "/var/lib/docker",
            "/var/lib/docker/overlay2/abc",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/work/rootfs",
            "/run/netns",
            "/run/user/0",
            "/var/lib/kubelet/pods/0f3c/volumes",
        ] {
            assert!(!watch.is_match(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_lies_below_a_watched_mount_is_covered() {
        let watch = WatchPatterns::default();
        assert!(watch.covers(b"/run/netns/x/y/z"));
        assert!(watch.covers(b"/var/lib/containers/storage/overlay/abc/merged"));
        assert!(watch.covers(
            b"/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/rootfs/run/containerd/\
              io.containerd.runtime.v2.task/moby/b"
        ));
        assert!(!watch.covers(b"/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/config.json"));
        assert!(!watch.covers(b"") && !watch.covers(b"/"));
    }

    #[test]
    fn own_patterns() {
        let watch = WatchPatterns::only(&["/mnt/*".to_owned()]).unwrap();
        assert!(
            watch.is_match(b"/mnt/x") && !watch.is_match(b"/mnt/x/y") && !watch.is_match(b"/run/netns/x")
        );
        assert!(WatchPatterns::with(&["/mnt/[".to_owned()]).is_err());
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let watch = WatchPatterns::only(&["**/rootfs/**".to_owned()]).unwrap();
            let _ = watch.covers(&path);
        }
    }
}
