//! Directories in which runtimes keep their files: the usual ones, and those learnt from a mount.

use std::path::PathBuf;

/// The owner of directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// State directories of containerd, below which the bundles of tasks are.
    Containerd,
    /// Those of containers/storage (CRI-O, Podman), below which are layers and bundles.
    Storage,
    /// Data directories of Docker.
    Docker,
}

/// The defaults of various packagers.
const USUAL: &[(Keeper, &str)] = &[
    (Keeper::Containerd, "/run/containerd"),
    (Keeper::Containerd, "/run/k3s/containerd"),
    (Keeper::Containerd, "/run/docker/containerd/daemon"),
    (Keeper::Containerd, "/run/k0s/containerd"),
    (Keeper::Containerd, "/var/snap/microk8s/common/run/containerd"),
    (Keeper::Storage, "/run/containers/storage"),
    (Keeper::Storage, "/var/lib/containers/storage"),
    (Keeper::Docker, "/var/lib/docker"),
];

/// A host has a few; anybody can choose the path of a mount.
const MOST: usize = 32;

/// All known directories.
#[derive(Debug)]
pub(super) struct Places {
    known: Vec<(Keeper, PathBuf)>,
}

impl Default for Places {
    fn default() -> Self {
        let usual = USUAL.iter().map(|(keeper, path)| (*keeper, PathBuf::from(path)));
        Self {
            known: usual.collect(),
        }
    }
}

impl Places {
    pub(super) fn of(&self, keeper: Keeper) -> Vec<PathBuf> {
        let own = self.known.iter().filter(|(of, _)| *of == keeper);
        own.map(|(_, path)| path.clone()).collect()
    }

    pub(super) fn learn(&mut self, keeper: Keeper, directory: PathBuf) {
        let place = (keeper, directory);
        if self.known.len() < MOST && !self.known.contains(&place) {
            self.known.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Keeper, MOST, Places};

    #[test]
    fn what_is_learnt_is_bounded() {
        let mut places = Places::default();
        places.learn(Keeper::Docker, "/srv/docker".into());
        places.learn(Keeper::Docker, "/srv/docker".into());
        assert_eq!(
            places.of(Keeper::Docker),
            [Path::new("/var/lib/docker"), Path::new("/srv/docker")]
        );
        for index in 0..100 {
            places.learn(Keeper::Storage, format!("/srv/{index}").into());
        }
        assert_eq!(places.known.len(), MOST);
    }
}
