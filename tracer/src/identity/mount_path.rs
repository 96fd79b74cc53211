//! Derives from the path of a mount the container or pod that it was made for.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use super::cgroup::{is_containerd_name, is_full_id, is_pod_uid};

/// The purpose and owner of a mount, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountClaim {
    /// In the usual terms of containers: `rootfs`, `shm`, `volume pvc-1`...
    pub what: String,
    /// Its owner, if the path names one.
    pub owner: Option<MountOwner>,
}

/// The owner of a mount, as far as its path names one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountOwner {
    /// A task of containerd.
    Task {
        /// containerd's namespace.
        namespace: String,
        /// Container id.
        id: String,
        /// Its bundle: `config.json` lies there.
        bundle: PathBuf,
    },
    /// A pod sandbox of containerd's CRI plugin.
    Sandbox {
        /// Id of the sandbox's container.
        id: String,
        /// containerd's state directory.
        state: PathBuf,
    },
    /// A container of CRI-O or Podman.
    Storage {
        /// Container id.
        id: String,
        /// Its `userdata` directory: `config.json` lies there.
        userdata: PathBuf,
    },
    /// A layer of containers/storage.
    StorageLayer {
        /// `/var/lib/containers/storage`.
        root: PathBuf,
        /// Layer id.
        layer: String,
    },
    /// A container of Docker.
    Docker {
        /// Container id.
        id: String,
        /// Docker's data directory.
        root: PathBuf,
    },
    /// A layer of Docker's overlay2 driver.
    DockerLayer {
        /// Docker's data directory.
        root: PathBuf,
        /// Layer id.
        layer: String,
    },
    /// A Kubernetes pod.
    Pod {
        /// Its uid.
        uid: String,
    },
    /// A network namespace kept by a mount.
    NetworkNamespace {
        /// The name of the file that it is mounted on.
        name: String,
    },
}

/// Reads the path of a mount. The outermost match counts: for the host, mounts below a container's root file system
/// belong to that container.
#[must_use]
pub fn mount_claim(path: &[u8]) -> Option<MountClaim> {
    let mut offset = 0;
    let parts: Vec<(usize, &[u8])> = path
        .split(|byte| *byte == b'/')
        .map(|part| {
            let start = offset;
            offset += part.len() + 1;
            (start, part)
        })
        .collect();
    (0..parts.len()).find_map(|index| {
        claim_at(&Parts {
            path,
            list: &parts,
            index,
        })
    })
}

/// A path and a place in it.
struct Parts<'a> {
    path: &'a [u8],
    /// Every component and where it begins.
    list: &'a [(usize, &'a [u8])],
    index: usize,
}

impl<'a> Parts<'a> {
    fn bytes(&self, ahead: usize) -> Option<&'a [u8]> {
        self.list.get(self.index + ahead).map(|(_, part)| *part)
    }

    /// The component that many places ahead, if it is text.
    fn text(&self, ahead: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(ahead)?)
            .ok()
            .filter(|part| !part.is_empty())
    }

    fn before(&self, back: usize) -> Option<&'a [u8]> {
        self.index
            .checked_sub(back)
            .and_then(|index| self.list.get(index))
            .map(|(_, part)| *part)
    }

    /// The path up to and with the component that many places ahead.
    fn through(&self, ahead: usize) -> Option<PathBuf> {
        let (start, part) = self.list.get(self.index + ahead)?;
        self.path.get(..start + part.len()).map(to_path)
    }

    /// The path before the component that many places back.
    fn up_to(&self, back: usize) -> Option<PathBuf> {
        let (start, _) = self.list.get(self.index.checked_sub(back)?)?;
        let end = start.checked_sub(1)?;
        let directory = self.path.get(..end)?;
        Some(to_path(if directory.is_empty() { b"/" } else { directory }))
    }

    fn is_last(&self, ahead: usize) -> bool {
        self.index + ahead + 1 >= self.list.len()
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn claim_at(at: &Parts<'_>) -> Option<MountClaim> {
    match at.bytes(0)? {
        b"io.containerd.runtime.v1.linux" => task(at),
        name if is_task_directory(name) => task(at),
        b"io.containerd.grpc.v1.cri" => sandbox(at),
        b"overlay-containers" => storage(at),
        b"overlay" if at.before(1) == Some(b"storage") => storage_layer(at),
        b"overlay2" => docker_layer(at),
        b"rootfs" => docker_rootfs(at),
        b"containers" => docker_container(at),
        b"pods" if at.before(1).is_some_and(|parent| parent.ends_with(b"kubelet")) => pod(at),
        b"netns" if matches!(at.before(1), Some(b"run" | b"docker")) => {
            let name = at.text(1)?;
            Some(claim(
                "network namespace",
                Some(MountOwner::NetworkNamespace {
                    name: name.to_owned(),
                }),
            ))
        }
        b"tmpmounts" if at.before(1) == Some(b"containerd") && at.bytes(1).is_some() => {
            Some(claim("temporary mount of an image", None))
        }
        name if name.starts_with(b"containerd-mount") => Some(claim("temporary mount of an image", None)),
        _ => None,
    }
}

/// `io.containerd.runtime.v2.task`, whatever the version.
pub(super) fn is_task_directory(name: &[u8]) -> bool {
    name.strip_prefix(b"io.containerd.runtime.v")
        .is_some_and(|rest| rest.ends_with(b".task"))
}

fn claim(what: &str, owner: Option<MountOwner>) -> MountClaim {
    MountClaim {
        what: what.to_owned(),
        owner,
    }
}

fn task(at: &Parts<'_>) -> Option<MountClaim> {
    let (namespace, id) = (at.text(1)?, at.text(2)?);
    if !is_containerd_name(namespace) || !is_containerd_name(id) {
        return None;
    }
    let owner = MountOwner::Task {
        namespace: namespace.to_owned(),
        id: id.to_owned(),
        bundle: at.through(2)?,
    };
    let what = match at.bytes(3) {
        Some(b"rootfs") if at.is_last(3) => "rootfs",
        Some(b"rootfs") => "mount below the rootfs",
        _ => "mount in the bundle",
    };
    Some(claim(what, Some(owner)))
}

fn sandbox(at: &Parts<'_>) -> Option<MountClaim> {
    let id = at.text(2).filter(|id| is_full_id(id))?;
    match at.bytes(1)? {
        b"sandboxes" => {
            let owner = MountOwner::Sandbox {
                id: id.to_owned(),
                state: at.up_to(0)?,
            };
            Some(claim(
                if at.bytes(3) == Some(b"shm") {
                    "shm"
                } else {
                    "mount of the sandbox"
                },
                Some(owner),
            ))
        }
        _ => None,
    }
}

fn storage(at: &Parts<'_>) -> Option<MountClaim> {
    let id = at.text(1).filter(|id| is_full_id(id))?;
    if at.bytes(2)? != b"userdata" {
        return None;
    }
    let owner = MountOwner::Storage {
        id: id.to_owned(),
        userdata: at.through(2)?,
    };
    Some(claim(
        if at.bytes(3) == Some(b"shm") {
            "shm"
        } else {
            "mount in the bundle"
        },
        Some(owner),
    ))
}

fn rootfs_or_below(at: &Parts<'_>, ahead: usize) -> &'static str {
    if at.is_last(ahead) {
        "rootfs"
    } else {
        "mount below the rootfs"
    }
}

fn storage_layer(at: &Parts<'_>) -> Option<MountClaim> {
    let layer = at.text(1)?;
    if at.bytes(2)? != b"merged" {
        return None;
    }
    let owner = MountOwner::StorageLayer {
        root: at.up_to(0)?,
        layer: layer.to_owned(),
    };
    Some(claim(rootfs_or_below(at, 2), Some(owner)))
}

fn docker_layer(at: &Parts<'_>) -> Option<MountClaim> {
    let layer = at.text(1)?;
    if at.bytes(2)? != b"merged" {
        return None;
    }
    let owner = MountOwner::DockerLayer {
        root: at.up_to(0)?,
        layer: layer.to_owned(),
    };
    Some(claim(rootfs_or_below(at, 2), Some(owner)))
}

/// `<data>/rootfs/overlayfs/<id>`: Docker with containerd's image store.
fn docker_rootfs(at: &Parts<'_>) -> Option<MountClaim> {
    let id = at.text(2).filter(|id| is_full_id(id))?;
    let owner = MountOwner::Docker {
        id: id.to_owned(),
        root: at.up_to(0)?,
    };
    Some(claim(rootfs_or_below(at, 2), Some(owner)))
}

/// `<data>/containers/<id>/mounts/shm`.
fn docker_container(at: &Parts<'_>) -> Option<MountClaim> {
    let id = at.text(1).filter(|id| is_full_id(id))?;
    if at.bytes(2)? != b"mounts" {
        return None;
    }
    let owner = MountOwner::Docker {
        id: id.to_owned(),
        root: at.up_to(0)?,
    };
    Some(claim(
        if at.bytes(3)? == b"shm" { "shm" } else { "secrets" },
        Some(owner),
    ))
}

fn pod(at: &Parts<'_>) -> Option<MountClaim> {
    let uid = at.text(1).filter(|uid| is_pod_uid(uid))?;
    let owner = Some(MountOwner::Pod { uid: uid.to_owned() });
    match at.bytes(2) {
        Some(b"volumes" | b"volumeDevices") => {
            let name = at.bytes(4).map(String::from_utf8_lossy);
            Some(claim(
                &name.map_or_else(|| "volume".to_owned(), |name| format!("volume {name}")),
                owner,
            ))
        }
        Some(b"volume-subpaths") => {
            let name = at.bytes(3).map(String::from_utf8_lossy);
            Some(claim(
                &name.map_or_else(
                    || "subPath".to_owned(),
                    |name| format!("subPath of volume {name}"),
                ),
                owner,
            ))
        }
        _ => Some(claim("mount of the pod", owner)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::{MountOwner, mount_claim};

    const ID: &str = "9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5";
    const UID: &str = "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e";

    fn owner(path: &str) -> (String, MountOwner) {
        let claim = mount_claim(path.replace("ID", ID).as_bytes()).unwrap();
        (claim.what, claim.owner.unwrap())
    }

    #[test]
    fn tasks_of_containerd() {
        let (what, found) = owner("/run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/rootfs");
        let bundle = PathBuf::from(format!(
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}"
        ));
        assert_eq!(what, "rootfs");
        assert_eq!(
            found,
            MountOwner::Task {
                namespace: "k8s.io".into(),
                id: ID.into(),
                bundle
            }
        );

        let (what, found) = owner("/host/x/io.containerd.runtime.v2.task/default/web/rootfs/a/b");
        let bundle = PathBuf::from("/host/x/io.containerd.runtime.v2.task/default/web");
        assert_eq!(what, "mount below the rootfs");
        assert_eq!(
            found,
            MountOwner::Task {
                namespace: "default".into(),
                id: "web".into(),
                bundle
            }
        );
    }

    #[test]
    fn the_outermost_container_is_the_hosts() {
        let (_, found) = owner(
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/outer/rootfs/var/lib/docker/overlay2/l/merged",
        );
        assert!(matches!(found, MountOwner::Task { id, .. } if id == "outer"));
    }

    #[test]
    fn other_mounts_of_runtimes() {
        let root = PathBuf::from("/var/lib/docker");
        let storage = "/run/containers/storage/overlay-containers";
        for (path, what, expected) in [
            (
                "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/ID/shm",
                "shm",
                MountOwner::Sandbox {
                    id: ID.into(),
                    state: "/run/containerd".into(),
                },
            ),
            (
                &format!("{storage}/ID/userdata/shm"),
                "shm",
                MountOwner::Storage {
                    id: ID.into(),
                    userdata: format!("{storage}/{ID}/userdata").into(),
                },
            ),
            (
                "/var/lib/containers/storage/overlay/abc/merged",
                "rootfs",
                MountOwner::StorageLayer {
                    root: "/var/lib/containers/storage".into(),
                    layer: "abc".into(),
                },
            ),
            (
                "/var/lib/docker/overlay2/abc/merged",
                "rootfs",
                MountOwner::DockerLayer {
                    root: root.clone(),
                    layer: "abc".into(),
                },
            ),
            (
                "/var/lib/docker/rootfs/overlayfs/ID",
                "rootfs",
                MountOwner::Docker {
                    id: ID.into(),
                    root: root.clone(),
                },
            ),
            (
                "/var/lib/docker/containers/ID/mounts/shm",
                "shm",
                MountOwner::Docker {
                    id: ID.into(),
                    root: root.clone(),
                },
            ),
            (
                &format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"),
                "volume pvc-1",
                MountOwner::Pod { uid: UID.into() },
            ),
            (
                &format!("/var/lib/kubelet/pods/{UID}/volume-subpaths/conf/main/0"),
                "subPath of volume conf",
                MountOwner::Pod { uid: UID.into() },
            ),
            (
                "/run/netns/cni-1",
                "network namespace",
                MountOwner::NetworkNamespace { name: "cni-1".into() },
            ),
        ] {
            assert_eq!(owner(path), (what.to_owned(), expected), "{path}");
        }
    }

    #[test]
    fn paths_without_an_owner() {
        let claim = mount_claim(b"/var/lib/containerd/tmpmounts/containerd-mount42").unwrap();
        assert_eq!(
            (claim.what.as_str(), claim.owner),
            ("temporary mount of an image", None)
        );
        for path in [
            &b"/"[..],
            b"",
            b"/mnt",
            b"/run/containerd/io.containerd.runtime.v2.task/k8s.io",
            b"/run/containerd/io.containerd.runtime.v2.task/../..",
            b"/run/containerd/io.containerd.runtime.v2.task/\xff/web/rootfs",
            b"/var/lib/docker/containers/short/mounts/shm",
            b"/var/lib/kubelet/pods/not-a-uid/volumes/a/b",
        ] {
            assert_eq!(mount_claim(path), None, "{}", path.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = mount_claim(&path);
        }

        #[test]
        fn no_likely_path_makes_it_panic(path in "(/(overlay2|merged|rootfs|pods|kubelet|netns|run|\
            io\\.containerd\\.runtime\\.v2\\.task|overlay-containers|userdata|containers|[a-f0-9]{64}|x|)){0,9}") {
            let _ = mount_claim(path.as_bytes());
        }
    }
}
