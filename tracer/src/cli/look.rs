//! From what was asked about to mounts: by path, device, data set, container, pod.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use anyhow::{Result, bail};

use crate::{
    identity::{Containers, Lookup, MountOwner, mount_claim},
    kernel::Mount,
    kernel::Reader,
    live::{
        Host, Mounted, MountsView, NamespaceMounts, RealPath, describe, device_of, on_mount, own_namespace,
        real_path,
    },
    model::{Container, Target},
    text::said,
};

/// Mounts on top of each other that are answered.
const STACKED_MAX: usize = 64;

/// A look at all mounts.
pub(super) struct Look<'a> {
    pub(super) view: MountsView,
    pub(super) containers: Arc<Containers>,
    pub(super) host: &'a Host,
    pub(super) reader: &'a Reader,
    /// The mount namespace that ebusy was started in.
    own: Option<u32>,
    hidden: bool,
    known: Option<Known>,
}

/// Names of mounts, for looking for many.
struct Known {
    paths: HashSet<Vec<u8>>,
    sources: HashMap<Vec<u8>, Vec<u64>>,
}

/// Mounts, or why there are none.
#[derive(Debug)]
pub(super) enum Found {
    /// These, with what is to be said of them first.
    Mounts(Vec<(Mount, Target)>, Option<String>),
    /// Nothing is mounted there.
    Nothing,
    /// There is a link in the path that cannot be followed, right here.
    Unknown(Vec<u8>),
}

impl<'a> Look<'a> {
    pub(super) fn new(host: &'a Host, reader: &'a Reader, own: Option<u32>) -> Self {
        let look = Self {
            view: MountsView::read(host.kernel(reader), host.task()),
            containers: Arc::new(Containers::new("/proc", "/")),
            host,
            reader,
            own,
            hidden: false,
            known: None,
        };
        look.containers.learn_all(look.view.paths_of(own_namespace()));
        look
    }

    fn describe(&self, namespace: &NamespaceMounts, mounted: &Mounted) -> (Mount, Target) {
        let kernel = self.host.kernel(self.reader);
        (
            mounted.mount.clone(),
            describe(kernel, &self.containers, &self.view, namespace, mounted),
        )
    }

    /// What a path means to whoever types it: the mounts right there, else those of the device that it is, else those
    /// where its links lead, else the one that it is in.
    pub(super) fn by_path(&mut self, path: &[u8]) -> Found {
        let mut found = self.named(path);
        if matches!(found, Found::Nothing) && self.add_hidden() {
            found = self.named(path);
        }
        if !matches!(found, Found::Nothing) {
            return found;
        }
        match self.around(path) {
            Some((mount, note)) => Found::Mounts(vec![mount], Some(note)),
            None => Found::Nothing,
        }
    }

    /// The same, but for what only lies in a mount.
    pub(super) fn named(&self, path: &[u8]) -> Found {
        let found = self.at(path, None);
        if !found.is_empty() {
            return Found::Mounts(found, self.note_elsewhere(path));
        }
        let mut unknown = None;
        for namespace in self.here() {
            let own = own_namespace().and_then(|number| self.view.namespace(number));
            match real_path(self.host.kernel(self.reader), namespace, path, own) {
                RealPath::Known(real) if real != path => {
                    let found = self.at(&real, Some(namespace));
                    if !found.is_empty() {
                        let note = format!("{} leads to {}", said(path), said(&real));
                        return Found::Mounts(found, Some(note));
                    }
                }
                RealPath::Known(_) => {}
                RealPath::Unknown(at) => unknown = Some(at),
            }
        }
        unknown.map_or(Found::Nothing, Found::Unknown)
    }

    /// The namespace that ebusy was started in, and the host's.
    fn here(&self) -> Vec<&NamespaceMounts> {
        let mut numbers = vec![self.own, own_namespace()];
        numbers.dedup();
        let here = numbers.into_iter().flatten();
        here.filter_map(|number| self.view.namespace(number)).collect()
    }

    /// The mounts at a path, or of the device at it, in one namespace or in the first that has them.
    fn at(&self, path: &[u8], only: Option<&NamespaceMounts>) -> Vec<(Mount, Target)> {
        let others = self.view.namespaces.iter().map(AsRef::as_ref);
        let namespaces: Vec<&NamespaceMounts> = match only {
            Some(only) => vec![only],
            None => self.here().into_iter().chain(others).collect(),
        };
        let stack = namespaces
            .iter()
            .map(|namespace| (*namespace, stack(namespace, path)));
        if let Some((namespace, stack)) = stack.into_iter().find(|(_, stack)| !stack.is_empty()) {
            return stack
                .into_iter()
                .map(|mounted| self.describe(namespace, mounted))
                .collect();
        }
        if path.starts_with(b"/dev/") {
            return self.of_device(path);
        }
        Vec::new()
    }

    /// Where a mount is only in namespaces that ebusy was not started in.
    fn note_elsewhere(&self, path: &[u8]) -> Option<String> {
        let has = |namespace: &NamespaceMounts| namespace.at(path).is_some();
        let here = self.here();
        if here.iter().any(|namespace| has(namespace)) {
            return None;
        }
        let there: Vec<u32> = self
            .view
            .namespaces
            .iter()
            .filter(|namespace| has(namespace))
            .map(|namespace| namespace.number)
            .collect();
        let first = there.first()?;
        Some(format!(
            "{} is not mounted here, but in {} (mount namespace {first}; see: lsns -t mnt {first})",
            said(path),
            match there.len() {
                1 => "another mount namespace".to_owned(),
                many => format!("{many} others"),
            }
        ))
    }

    /// The mounts of a block device, copies left out.
    fn of_device(&self, path: &[u8]) -> Vec<(Mount, Target)> {
        let kernel = self.host.kernel(self.reader);
        let number = device_of(path);
        let mut devices: HashMap<u64, Option<u32>> = HashMap::new();
        self.originals(|mounted| {
            let superblock = mounted.mount.superblock;
            let device = *devices
                .entry(superblock)
                .or_insert_with(|| kernel.superblock_device(superblock));
            number.is_some() && device == number
                // Such as btrfs have numbers of their own.
                || kernel.device_name(&mounted.mount).as_deref() == Some(path)
        })
    }

    /// Of all copies of what is asked for the first.
    fn originals(&self, mut wanted: impl FnMut(&Mounted) -> bool) -> Vec<(Mount, Target)> {
        let kernel = self.host.kernel(self.reader);
        let mut copies = HashSet::new();
        let mut found = Vec::new();
        for (namespace, mounted) in self.view.originals_first() {
            if !copies.contains(&mounted.mount.address) && wanted(mounted) {
                copies.extend(kernel.mounts_of_superblock(mounted.mount.superblock).items);
                found.push(self.describe(namespace, mounted));
            }
        }
        found
    }

    /// The mount that a path lies in. That of the root is not what anybody asks about; and what was a mount of a
    /// container or a pod once is not a path in something else.
    fn around(&self, path: &[u8]) -> Option<((Mount, Target), String)> {
        let namespace = *self.here().first()?;
        let (mounted, _) = on_mount(namespace, path, true)?;
        let owner = |path: &[u8]| mount_claim(path).map(|claim| claim.owner);
        let is_root = mounted.path == b"/";
        if is_root || owner(path).is_some() && owner(path) != owner(&mounted.path) {
            return None;
        }
        let note = format!("{} is on {}", said(path), said(&mounted.path));
        Some((self.describe(namespace, mounted), note))
    }

    /// Adds the namespaces that no process is in; whether there are any.
    fn add_hidden(&mut self) -> bool {
        if std::mem::replace(&mut self.hidden, true) {
            return false;
        }
        let known = self.view.namespaces.len();
        let kernel = self.host.kernel(self.reader);
        self.known = None;
        self.view.add_hidden(kernel).is_some() && self.view.namespaces.len() > known
    }

    /// Whether something is mounted at a path, or a path is what is mounted somewhere; of very many.
    pub(super) fn is_known(&mut self, path: &[u8]) -> bool {
        let kernel = self.host.kernel(self.reader);
        let view = &self.view;
        let known = self.known.get_or_insert_with(|| {
            let mut sources: HashMap<Vec<u8>, Vec<u64>> = HashMap::new();
            for (_, mounted) in view.all() {
                if let Some(name) = kernel.device_name(&mounted.mount) {
                    sources.entry(name).or_default().push(mounted.mount.address);
                }
            }
            Known {
                paths: view.all().map(|(_, mounted)| mounted.path.clone()).collect(),
                sources,
            }
        });
        known.paths.contains(path)
            || names_of_source(path)
                .iter()
                .any(|name| known.sources.contains_key(name))
    }

    /// The mounts of a data set, a network file system or a logical volume, copies left out.
    pub(super) fn by_source(&self, source: &[u8]) -> Vec<(Mount, Target)> {
        let kernel = self.host.kernel(self.reader);
        let names = names_of_source(source);
        self.originals(|mounted| {
            let name = kernel.device_name(&mounted.mount);
            name.is_some_and(|name| names.contains(&name))
        })
    }

    /// All mounts of a pod, by its uid, copies in other namespaces left out.
    pub(super) fn by_pod_uid(&self, uid: &str) -> Vec<(Mount, Target)> {
        self.originals(|mounted| {
            let owner = mounted
                .by_root
                .then(|| mount_claim(&mounted.path)?.owner)
                .flatten();
            matches!(owner, Some(MountOwner::Pod { uid: of }) if of == uid)
        })
    }

    /// All mounts of a container or a pod, copies in other namespaces left out. What is no id is taken whole.
    pub(super) fn by_name(&self, name: &str) -> Result<Vec<(Mount, Target)>> {
        let pods = match self.containers.lookup(name) {
            Lookup::Found(found) => found,
            Lookup::Ambiguous(found) => bail!(
                "{name} could be {}; give more of the id",
                ids(found.iter().map(|f| &f.container.id))
            ),
            Lookup::Nothing => Vec::new(),
        };
        let wanted = |container: &Container| {
            goes_by(container, name) || pods.iter().any(|pod| pod.container.id == container.id)
        };
        let found = self.originals(|mounted| {
            let container = mounted.container(&self.containers);
            container.is_some_and(|container| !container.id.is_empty() && wanted(&container))
        });
        let mut names: Vec<&String> = found
            .iter()
            .filter_map(|(_, target)| target.container.as_ref().map(|container| &container.id))
            .collect();
        names.sort_unstable();
        names.dedup();
        if pods.is_empty() && !name.contains('/') && names.len() > 1 {
            bail!("{name} could be {}; give more of the id", ids(names.into_iter()));
        }
        Ok(found)
    }
}

/// What is mounted at a path of a namespace, from the top: each on the one below.
fn stack<'n>(namespace: &'n NamespaceMounts, path: &[u8]) -> Vec<&'n Mounted> {
    let mut stack: Vec<&Mounted> = namespace.at(path).into_iter().collect();
    while let Some(top) = stack.last()
        && stack.len() < STACKED_MAX
        && let Some(below) = namespace.mounts.iter().find(|below| {
            below.mount.address == top.mount.parent
                && below.path == path
                && below.mount.address != top.mount.address
        })
    {
        stack.push(below);
    }
    // Nobody unmounts what all others are mounted on.
    if stack.len() > 1 && path == b"/" {
        stack.truncate(1);
    }
    stack
}

/// What the kernel may have as the source of a mount, for what tools call it: `vg/lv` and `vg-lv` are `/dev/mapper/vg-lv`.
fn names_of_source(source: &[u8]) -> Vec<Vec<u8>> {
    let mut names = vec![source.to_vec()];
    if source.starts_with(b"/") {
        return names;
    }
    for directory in [&b"/dev/"[..], b"/dev/mapper/"] {
        names.push([directory, source].concat());
    }
    let mut parts = source.splitn(2, |byte| *byte == b'/');
    if let (Some(group), Some(volume)) = (parts.next(), parts.next()) {
        // Dashes of names are doubled there.
        let doubled = |name: &[u8]| {
            name.iter()
                .flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'-')))
                .collect::<Vec<u8>>()
        };
        names.push(
            [
                b"/dev/mapper/",
                doubled(group).as_slice(),
                b"-",
                doubled(volume).as_slice(),
            ]
            .concat(),
        );
    }
    names
}

/// Whether that is its id or the beginning of it, or its pod. What is no number is a name, and not the beginning of one.
pub(super) fn goes_by(container: &Container, name: &str) -> bool {
    let pod = container.pod_namespace.as_deref().zip(container.pod.as_deref());
    let is_number = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    container.id == name
        || is_number && container.id.starts_with(name)
        || pod.is_some_and(|pod| name.split_once('/') == Some(pod))
}

fn ids<'a>(ids: impl Iterator<Item = &'a String>) -> String {
    let mut ids: Vec<String> = ids
        .map(|id| said(id.as_bytes().get(..20).unwrap_or(id.as_bytes())))
        .collect();
    let more = ids.len().saturating_sub(5);
    ids.truncate(5);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{goes_by, names_of_source};
    use crate::model::Container;

    #[test]
    fn sources_by_all_their_names() {
        let of = |source: &str| -> Vec<String> {
            let names = names_of_source(source.as_bytes()).into_iter();
            names.map(|name| String::from_utf8(name).unwrap()).collect()
        };
        assert_eq!(of("/dev/sdb1"), ["/dev/sdb1"]);
        assert_eq!(
            of("my-vg/data"),
            [
                "my-vg/data",
                "/dev/my-vg/data",
                "/dev/mapper/my-vg/data",
                "/dev/mapper/my--vg-data"
            ]
        );
        assert!(of("luks-data").contains(&"/dev/mapper/luks-data".to_owned()));
    }

    #[test]
    fn a_name_is_no_beginning_of_an_id() {
        let container = |id: &str| Container {
            id: id.into(),
            ..Container::default()
        };
        assert!(goes_by(&container("0123abcd"), "0123"));
        assert!(goes_by(&container("hello"), "hello"));
        assert!(!goes_by(&container("hello"), "he"));
        // All of its letters are digits as well.
        assert!(goes_by(&container("beef01"), "beef"));
    }
}
