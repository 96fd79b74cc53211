//! Adds the facts of the engines above the runtime to a container that a bundle describes.

use std::path::{Path, PathBuf};

use super::{
    bundle::Details,
    bundles::Bundles,
    cgroup::{is_containerd_name, is_full_id},
    complete::{
        complete_from_docker, complete_from_metadata, complete_from_storage, docker_root, sandbox_in_storage,
    },
    metadata::{self, Metadata},
    places::Keeper,
    trusted::Folder,
};

impl Bundles {
    /// Adds the engine's facts to those of a bundle, which is in an open directory.
    pub(super) fn complete(&self, found: &mut Details, folder: &Folder, base: &Path, bundle: &Path) {
        match found.container.runtime.as_deref() {
            Some("docker") => {
                let root = found.root.as_deref().and_then(docker_root).map(PathBuf::from);
                let roots = root.into_iter().chain(self.places(Keeper::Docker));
                for root in roots {
                    let folder = self.folder(&root);
                    if folder.is_some_and(|folder| complete_from_docker(found, &folder)) {
                        break;
                    }
                }
            }
            Some("cri-o" | "podman") => self.complete_from_lists(found, folder, base),
            Some("containerd") => self.complete_from_containerd(found, folder, base, bundle),
            _ => {}
        }
    }

    fn complete_from_lists(&self, found: &mut Details, folder: &Folder, base: &Path) {
        let sandbox = found.sandbox_id.clone().filter(|id| is_full_id(id));
        let (mut listed, mut notes) = (None, None);
        let mut look = |folder: &Folder, root: &Path| {
            if listed.is_none() {
                let list = self.storage_entries(folder, root);
                listed = list.into_iter().find(|entry| entry.id == found.container.id);
            }
            if let (None, Some(id)) = (&notes, &sandbox) {
                notes = sandbox_in_storage(folder, id);
            }
        };
        look(folder, base);
        for root in self.places(Keeper::Storage).iter().filter(|root| *root != base) {
            if let Some(folder) = self.folder(root) {
                look(&folder, root);
            }
        }
        if let Some(listed) = listed {
            complete_from_storage(&mut found.container, &listed);
        }
        found.name_owner(notes.as_ref());
    }

    fn complete_from_containerd(&self, found: &mut Details, state: &Folder, base: &Path, bundle: &Path) {
        let Some(namespace) = found.container.namespace.clone() else {
            return;
        };
        let root = metadata::root_of(state, base, bundle);
        let Some(root) = root.and_then(|root| self.folder(&root)) else {
            return;
        };
        let read = |id: &str| metadata::read(&root, &namespace, id);
        let Some(known) = read(&found.container.id) else {
            return;
        };
        complete_from_metadata(found, &known);
        let sandbox = if found.sandbox {
            Some(known)
        } else {
            let id = found.sandbox_id.as_deref().filter(|id| is_containerd_name(id));
            id.and_then(read)
        };
        found.name_owner(sandbox.map(Metadata::into_notes).as_ref());
    }
}
