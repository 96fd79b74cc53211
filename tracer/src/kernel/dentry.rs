//! Names and paths from dentries. Userspace would have to look a path up, and hold the mount while it does.

use std::{collections::HashMap, sync::Arc};

use super::{
    context::Kernel,
    memory::{u32_at, u64_at},
    mount::Mount,
};

/// Bytes of a path at the most: `PATH_MAX`, beyond which the kernel has no text for it either. Who makes directories in
/// directories decides how long it could be.
pub(crate) const TEXT_MAX: usize = 4096;

/// Names and mounts on the way up at the most: a name has a byte at least, and its slash.
const STEPS_MAX: usize = 2 * TEXT_MAX;

/// Directories whose paths are kept for what else is in them.
const DIRECTORIES_MAX: usize = 1024;

/// The path of something. One that is too long is cut at its beginning: it starts with `...`, where others have a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathText {
    bytes: Vec<u8>,
}

impl PathText {
    /// To show it.
    #[must_use]
    pub fn shown(self) -> Vec<u8> {
        self.bytes
    }

    /// To look for it, or to compare it: `None` for one that was cut.
    #[must_use]
    pub fn whole(self) -> Option<Vec<u8>> {
        (self.bytes.first() == Some(&b'/')).then_some(self.bytes)
    }
}

/// What a dentry tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dentry {
    /// Parent; itself at a root.
    pub parent: u64,
    /// Last component.
    pub name: Vec<u8>,
    /// Its name was removed.
    pub deleted: bool,
}

/// Dentries and mounts read so far. Made anew for every look: names change.
#[derive(Debug)]
pub struct Paths<'a> {
    kernel: Kernel<'a>,
    dentries: HashMap<u64, Option<Dentry>>,
    mounts: HashMap<u64, Option<Mount>>,
    /// By what they are seen from: their paths, for everything that is in them, and whether a name on the way was
    /// removed.
    directories: HashMap<(From, u64), Option<Directory>>,
}

/// The path of a directory, and whether a name on the way was removed.
type Directory = (Arc<[u8]>, bool);

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum From {
    /// At the root of a mount, as a dentry.
    Mount(u64),
    /// At a process's root directory, by way of a mount.
    Process(u64, Option<(u64, u64)>),
}

impl<'a> Paths<'a> {
    /// An empty cache.
    #[must_use]
    pub fn new(kernel: Kernel<'a>) -> Self {
        Self {
            kernel,
            dentries: HashMap::new(),
            mounts: HashMap::new(),
            directories: HashMap::new(),
        }
    }

    /// Makes mounts known that were read already.
    pub fn add_mounts<'m>(&mut self, mounts: impl IntoIterator<Item = &'m Mount>) {
        for mount in mounts {
            self.mounts.insert(mount.address, Some(mount.clone()));
        }
    }

    /// Reads these dentries and all their ancestors, in batches.
    pub fn load(&mut self, dentries: &[u64]) {
        let mut level: Vec<u64> = dentries.to_vec();
        for _ in 0..STEPS_MAX / 2 {
            level.sort_unstable();
            level.dedup();
            level.retain(|address| *address != 0 && !self.dentries.contains_key(address));
            if level.is_empty() {
                return;
            }
            let read = self.read(&level);
            let parents = read.iter().flatten().map(|dentry| dentry.parent).collect();
            for (address, dentry) in level.iter().zip(read) {
                self.dentries.insert(*address, dentry);
            }
            level = parents;
        }
    }

    fn read(&self, addresses: &[u64]) -> Vec<Option<Dentry>> {
        let t = &self.kernel.layout.table;
        let len = [
            t.dentry_name,
            t.dentry_name_len,
            t.dentry_parent,
            t.dentry_hash_pprev,
        ]
        .iter()
        .max()
        .map_or(0, |offset| *offset as usize + 8);
        let memory = self.kernel.memory;
        let heads = memory.read_batch(addresses, 0, len);
        let parsed: Vec<Option<(u64, u64, usize, bool)>> = heads
            .iter()
            .map(|piece| {
                let piece = piece?;
                Some((
                    u64_at(piece, t.dentry_parent as usize)?,
                    u64_at(piece, t.dentry_name as usize)?,
                    (u32_at(piece, t.dentry_name_len as usize)? as usize).min(255),
                    u64_at(piece, t.dentry_hash_pprev as usize)? == 0,
                ))
            })
            .collect();
        // Short names in one batch; what follows a name is readable but for the end of memory.
        let pointers: Vec<u64> = parsed.iter().map(|head| head.map_or(0, |head| head.1)).collect();
        let names = memory.read_batch(&pointers, 0, 32);
        parsed
            .into_iter()
            .zip(names.iter())
            .zip(addresses)
            .map(|((head, name), address)| {
                let (parent, pointer, len, unhashed) = head?;
                let name = match name.filter(|_| len <= 32) {
                    Some(name) => name[..len].to_vec(),
                    None if len == 0 => Vec::new(),
                    None => memory.read_batch(&[pointer], 0, len).get(0)?.to_vec(),
                };
                Some(Dentry {
                    parent,
                    name,
                    deleted: unhashed && parent != *address,
                })
            })
            .collect()
    }

    fn dentry(&mut self, address: u64) -> Option<&Dentry> {
        if !self.kernel.memory.budget().steps(1) {
            return None;
        }
        if !self.dentries.contains_key(&address) {
            self.load(&[address]);
        }
        self.dentries.get(&address)?.as_ref()
    }

    /// The mount at an address.
    pub fn mount(&mut self, address: u64) -> Option<Mount> {
        let kernel = self.kernel;
        self.mounts
            .entry(address)
            .or_insert_with(|| kernel.mount(address))
            .clone()
    }

    /// Path from a mount's root to a dentry of it, and whether the name was removed. `None` where the dentry is
    /// not below the root (a bind mount of another part), or is not readable.
    pub fn in_mount(&mut self, root: u64, dentry: u64) -> Option<(PathText, bool)> {
        if dentry == root {
            return Some((PathText { bytes: b"/".to_vec() }, false));
        }
        let Dentry {
            parent,
            name,
            deleted,
        } = self.dentry(dentry)?.clone();
        if parent == dentry {
            return None;
        }
        let (directory, removed) = self.directory((From::Mount(root), parent))?;
        Some((within(&directory, &name), deleted || removed))
    }

    /// Path of a dentry from the root of its file system, whatever is mounted of it and where.
    pub fn in_superblock(&mut self, dentry: u64) -> Option<PathText> {
        let mut names = Names::default();
        let mut at = dentry;
        loop {
            let entry = self.dentry(at)?;
            if entry.parent == at || !names.push(&entry.name) {
                return Some(names.joined());
            }
            at = entry.parent;
        }
    }

    /// Path as a process with this root directory sees it: up the dentries and the mounts, to the root or to the top
    /// of the namespace. `None` where it has no end: mounts that were read at different moments may point at each other
    /// (`pivot_root(".", ".")` makes the root and what is mounted on it change places). Such a picture is read anew, once.
    pub fn seen_from(&mut self, mount: u64, dentry: u64, root: Option<(u64, u64)>) -> Option<PathText> {
        let at_root = self.mount(mount)?.root == dentry || Some((mount, dentry)) == root;
        let name = if at_root {
            None
        } else {
            let Dentry { parent, name, .. } = self.dentry(dentry)?;
            Some((*parent, name.clone())).filter(|(parent, _)| *parent != dentry)
        };
        match name {
            Some((parent, name)) => {
                let (directory, _) = self.directory((From::Process(mount, root), parent))?;
                Some(within(&directory, &name))
            }
            None => self.climb_twice(mount, dentry, root),
        }
    }

    /// The path of a directory, which many things may be in.
    fn directory(&mut self, key: (From, u64)) -> Option<Directory> {
        if let Some(known) = self.directories.get(&key) {
            return known.clone();
        }
        let found = match key {
            (From::Mount(root), dentry) => self.below(root, dentry),
            (From::Process(mount, root), dentry) => {
                let path = self.climb_twice(mount, dentry, root);
                path.map(|path| (path, false))
            }
        };
        let found = found.map(|(path, removed)| (Arc::from(path.bytes), removed));
        if self.directories.len() >= DIRECTORIES_MAX {
            self.directories.clear();
        }
        self.directories.insert(key, found.clone());
        found
    }

    fn below(&mut self, root: u64, dentry: u64) -> Option<(PathText, bool)> {
        let mut names = Names::default();
        let mut at = dentry;
        let mut deleted = false;
        while at != root {
            let entry = self.dentry(at)?;
            if entry.parent == at {
                return None;
            }
            deleted |= entry.deleted;
            if !names.push(&entry.name) {
                break;
            }
            at = entry.parent;
        }
        Some((names.joined(), deleted))
    }

    fn climb_twice(&mut self, mount: u64, dentry: u64, root: Option<(u64, u64)>) -> Option<PathText> {
        let first = self.climb(mount, dentry, root);
        if !matches!(first, Climb::Endless) {
            return first.seen();
        }
        self.mounts.clear();
        self.climb(mount, dentry, root).seen()
    }

    fn climb(&mut self, mut mount: u64, mut at: u64, root: Option<(u64, u64)>) -> Climb {
        let mut names = Names::default();
        let Some(mut current) = self.mount(mount) else {
            return Climb::Unreadable;
        };
        // Each step is a name or a mount.
        for _ in 0..STEPS_MAX {
            let is_top = at == current.root && (current.parent == mount || current.parent == 0);
            if Some((mount, at)) == root || is_top {
                return Climb::Seen(names.joined());
            }
            if at == current.root {
                (mount, at) = (current.parent, current.mountpoint);
                let parent = self.mount(mount);
                let Some(parent) = parent.filter(|_| self.kernel.memory.budget().steps(1)) else {
                    return Climb::Unreadable;
                };
                current = parent;
            } else {
                let Some(entry) = self.dentry(at) else {
                    return Climb::Unreadable;
                };
                if entry.parent == at || !names.push(&entry.name) {
                    return Climb::Seen(names.joined());
                }
                at = entry.parent;
            }
        }
        Climb::Endless
    }
}

/// How a climb ended.
enum Climb {
    Seen(PathText),
    Unreadable,
    Endless,
}

impl Climb {
    fn seen(self) -> Option<PathText> {
        match self {
            Self::Seen(path) => Some(path),
            Self::Unreadable | Self::Endless => None,
        }
    }
}

/// The components of a path, from its end.
#[derive(Default)]
struct Names {
    names: Vec<Vec<u8>>,
    bytes: usize,
}

impl Names {
    /// Whether there is room for more.
    fn push(&mut self, name: &[u8]) -> bool {
        self.bytes += name.len() + 1;
        self.names.push(name.to_vec());
        self.bytes <= TEXT_MAX
    }

    fn joined(&self) -> PathText {
        if self.names.is_empty() {
            return PathText { bytes: b"/".to_vec() };
        }
        let mut bytes = Vec::with_capacity(self.bytes);
        for name in self.names.iter().rev() {
            bytes.push(b'/');
            bytes.extend(name);
        }
        shortened(bytes)
    }
}

/// The path of something in a directory.
pub(crate) fn within(directory: &[u8], name: &[u8]) -> PathText {
    let directory = if directory == b"/" { b"" } else { directory };
    shortened([directory, b"/", name].concat())
}

/// A path that is no longer than it may be: without its first components.
pub(crate) fn shortened(bytes: Vec<u8>) -> PathText {
    const MARK: &[u8] = b"...";
    let Some(over) = (bytes.len() + MARK.len()).checked_sub(TEXT_MAX) else {
        return PathText { bytes };
    };
    if bytes.len() <= TEXT_MAX {
        return PathText { bytes };
    }
    let rest = &bytes[over..];
    let first = rest.iter().position(|byte| *byte == b'/').unwrap_or(0);
    PathText {
        bytes: [MARK, &rest[first..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, TEXT_MAX, within};

    fn joined(names: &[&[u8]]) -> Vec<u8> {
        let mut all = Names::default();
        for name in names {
            if !all.push(name) {
                break;
            }
        }
        all.joined().shown()
    }

    #[test]
    fn components_are_joined_from_the_root() {
        assert_eq!(joined(&[]), b"/");
        assert_eq!(joined(&[b"log", b"var"]), b"/var/log");
        assert_eq!(within(b"/", b"var").shown(), b"/var");
        assert_eq!(within(b"/var", b"log").whole().unwrap(), b"/var/log");
    }

    #[test]
    fn a_path_that_is_too_long_loses_its_first_components_and_says_so() {
        let name = [b'x'; 99];
        let longest = joined(&[&name[..]; 40]);
        assert_eq!(longest.len(), 4000);
        assert_eq!(longest[..4], *b"/xxx");
        for long in [joined(&vec![&name[..]; 50_000]), joined(&vec![&b""[..]; 50_000])] {
            assert!(
                long.len() <= TEXT_MAX && long.len() > TEXT_MAX - 100,
                "{}",
                long.len()
            );
            assert!(long.starts_with(b".../"), "{}", long.escape_ascii());
        }
        let mut path = within(b"/", b"first");
        for _ in 0..100 {
            path = within(&path.shown(), &name);
        }
        let ends = [b"/", &name[..]].concat();
        assert!(path.clone().shown().ends_with(&ends));
        assert_eq!(path.whole(), None);
    }
}
