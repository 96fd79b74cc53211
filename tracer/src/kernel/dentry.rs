//! Names and paths from dentries. Userspace would have to look a path up, and hold the mount while it does.

use std::collections::HashMap;

use super::{
    context::Kernel,
    memory::{u32_at, u64_at},
    mount::Mount,
};

/// Components of a path at the most.
const DEPTH_MAX: usize = 4096;

/// Names and mounts on the way up at the most.
const STEPS_MAX: usize = 2 * DEPTH_MAX;

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
}

impl<'a> Paths<'a> {
    /// An empty cache.
    #[must_use]
    pub fn new(kernel: Kernel<'a>) -> Self {
        Self {
            kernel,
            dentries: HashMap::new(),
            mounts: HashMap::new(),
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
        for _ in 0..DEPTH_MAX {
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

    fn dentry(&mut self, address: u64) -> Option<Dentry> {
        if !self.dentries.contains_key(&address) {
            self.load(&[address]);
        }
        self.dentries.get(&address).cloned().flatten()
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
    pub fn in_mount(&mut self, root: u64, dentry: u64) -> Option<(Vec<u8>, bool)> {
        let mut components = Vec::new();
        let mut at = dentry;
        let mut deleted = false;
        while at != root {
            let entry = self.dentry(at)?;
            if entry.parent == at || components.len() >= DEPTH_MAX {
                return None;
            }
            deleted |= entry.deleted;
            components.push(entry.name);
            at = entry.parent;
        }
        Some((join(&components), deleted))
    }

    /// Path of a dentry from the root of its file system, whatever is mounted of it and where.
    pub fn in_superblock(&mut self, dentry: u64) -> Option<Vec<u8>> {
        let mut components = Vec::new();
        let mut at = dentry;
        loop {
            let entry = self.dentry(at)?;
            if entry.parent == at {
                return Some(join(&components));
            }
            if components.len() >= DEPTH_MAX {
                return None;
            }
            components.push(entry.name);
            at = entry.parent;
        }
    }

    /// Path as a process with this root directory sees it: up the dentries and the mounts, to the root or to the top
    /// of the namespace. `None` where it has no end: mounts that were read at different moments may point at each other
    /// (`pivot_root(".", ".")` makes the root and what is mounted on it change places). Such a picture is read anew, once.
    pub fn seen_from(&mut self, mount: u64, dentry: u64, root: Option<(u64, u64)>) -> Option<Vec<u8>> {
        match self.climb(mount, dentry, root) {
            Climb::Seen(path) => Some(path),
            Climb::Unreadable => None,
            Climb::Endless => {
                self.mounts.clear();
                match self.climb(mount, dentry, root) {
                    Climb::Seen(path) => Some(path),
                    Climb::Unreadable | Climb::Endless => None,
                }
            }
        }
    }

    fn climb(&mut self, mut mount: u64, mut at: u64, root: Option<(u64, u64)>) -> Climb {
        let mut components = Vec::new();
        let Some(mut current) = self.mount(mount) else {
            return Climb::Unreadable;
        };
        // Each step is a name or a mount.
        for _ in 0..STEPS_MAX {
            let is_top = at == current.root && (current.parent == mount || current.parent == 0);
            if Some((mount, at)) == root || is_top {
                return Climb::Seen(join(&components));
            }
            if at == current.root {
                (mount, at) = (current.parent, current.mountpoint);
                let Some(parent) = self.mount(mount) else {
                    return Climb::Unreadable;
                };
                current = parent;
            } else {
                let Some(entry) = self.dentry(at) else {
                    return Climb::Unreadable;
                };
                if entry.parent == at {
                    return Climb::Seen(join(&components));
                }
                components.push(entry.name);
                at = entry.parent;
            }
        }
        Climb::Endless
    }
}

/// How a climb ended.
enum Climb {
    Seen(Vec<u8>),
    Unreadable,
    Endless,
}

/// Joins components that go from the last to the first.
fn join(components: &[Vec<u8>]) -> Vec<u8> {
    if components.is_empty() {
        return b"/".to_vec();
    }
    let mut path = Vec::new();
    for component in components.iter().rev() {
        path.push(b'/');
        path.extend(component);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn components_are_joined_from_the_root() {
        assert_eq!(join(&[]), b"/");
        assert_eq!(join(&[b"log".to_vec(), b"var".to_vec()]), b"/var/log");
    }
}
