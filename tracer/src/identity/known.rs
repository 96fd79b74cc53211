//! Facts read about containers. Later questions are answered from here: a container outlives its files.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{bundle::Details, cache::Bounded, files::Stamp};

/// A node has some hundreds of containers.
const ENTRIES_MAX: usize = 8192;

/// A container and the directory of its configuration.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) details: Arc<Details>,
    pub(super) bundle: PathBuf,
}

impl Entry {
    /// It has the runtime's configuration: an engine's files have less.
    fn is_whole(&self) -> bool {
        self.details.root.is_some()
    }
}

/// All known containers.
#[derive(Debug)]
pub(super) struct Known {
    entries: Bounded<PathBuf, (Option<Stamp>, Entry)>,
    /// The ids of the containers whose root file systems are these layers.
    layers: Bounded<String, String>,
    /// The ids of those containers.
    have_layers: Bounded<String, ()>,
    /// Number of changes.
    pub(super) learned: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            entries: Bounded::new(ENTRIES_MAX),
            layers: Bounded::new(ENTRIES_MAX),
            have_layers: Bounded::new(ENTRIES_MAX),
            learned: 0,
        }
    }
}

impl Known {
    /// True if the configuration was read when its file had this stamp.
    pub(super) fn read_before(&self, bundle: &Path, stamp: Stamp) -> bool {
        self.entries
            .get(bundle)
            .is_some_and(|(then, _)| *then == Some(stamp))
    }

    pub(super) fn insert(&mut self, stamp: Option<Stamp>, entry: Entry) {
        self.learned += 1;
        self.entries.insert(entry.bundle.clone(), (stamp, entry));
    }

    pub(super) fn insert_layer(&mut self, layer: String, id: String) {
        self.have_layers.insert(id.clone(), ());
        self.layers.insert(layer, id);
    }

    /// True if the layer of a container is known.
    pub(super) fn has_layer(&self, id: &str) -> bool {
        self.have_layers.get(id).is_some()
    }

    /// The container whose root file system is a layer.
    pub(super) fn of_layer(&self, layer: &str) -> Option<&str> {
        self.layers.get(layer).map(String::as_str)
    }

    pub(super) fn at(&self, bundle: &Path) -> Option<&Entry> {
        self.entries.get(bundle).map(|(_, entry)| entry)
    }

    /// The container with an id, in containerd's namespace if that is known.
    pub(super) fn find(&self, id: &str, namespace: Option<&str>) -> Option<&Entry> {
        let is_it = |entry: &&Entry| {
            let container = &entry.details.container;
            container.id == id && namespace.is_none_or(|name| container.namespace.as_deref() == Some(name))
        };
        let mut first = None;
        for entry in self.iter().filter(is_it) {
            if entry.is_whole() {
                return Some(entry);
            }
            first = first.or(Some(entry));
        }
        first
    }

    /// In no order; a container may be there twice, as its runtime and as its engine know it.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|(_, entry)| entry)
    }

    /// Every container once, by the order of their directories.
    pub(super) fn all(&self) -> Vec<Entry> {
        let mut all: Vec<&Entry> = self.iter().collect();
        all.sort_by(|a, b| (!a.is_whole(), &a.bundle).cmp(&(!b.is_whole(), &b.bundle)));
        let mut seen = HashSet::new();
        all.retain(|entry| {
            let container = &entry.details.container;
            seen.insert((container.namespace.as_deref(), container.id.as_str()))
        });
        all.into_iter().cloned().collect()
    }
}
