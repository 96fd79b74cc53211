//! `struct mount` and mount trees, read from kernel memory: no path of a watched mount is ever walked.

use std::collections::{HashMap, HashSet};

use tracer_common::ABSENT;

use crate::model::Propagation;

use super::{
    context::Kernel,
    listing::Listing,
    memory::{is_kernel_address, u32_at, u64_at},
};

/// Mounts of one namespace at the most (`fs.mount-max` is 100,000 by default).
pub(crate) const MOUNTS_MAX: usize = 200_000;

/// One `struct mount`. Addresses are keys of the moment: they are reused as soon as it is freed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Its address.
    pub address: u64,
    /// Parent; itself at the root of a namespace.
    pub parent: u64,
    /// dentry that it is mounted on, in the parent.
    pub mountpoint: u64,
    /// dentry at its root.
    pub root: u64,
    /// Superblock.
    pub superblock: u64,
    /// `mnt_id`.
    pub id: u32,
    /// `mnt_id_unique`, Linux 6.8 on.
    pub unique: Option<u64>,
    /// Address of its namespace; 0 for a detached mount.
    pub namespace: u64,
    /// Peer group, 0 for none.
    pub group: u32,
    /// Master, 0 for none.
    pub master: u64,
    /// Per-CPU counters.
    pub per_cpu: u64,
    /// First link of its list of children; its own head if it has none.
    pub first_child: u64,
    /// Address of the string of what was mounted.
    pub device_name: u64,
    /// Mountpoint object.
    pub mountpoint_object: u64,
    /// `MNT_*`.
    pub flags: u32,
}

impl Mount {
    /// How it receives mounts.
    #[must_use]
    pub fn propagation(&self) -> Propagation {
        Propagation::new(self.group != 0, self.master != 0)
    }

    /// Whether it is still the same mount, and still mounted somewhere.
    #[must_use]
    pub fn is_still(&self, other: &Self) -> bool {
        self.is_same(other) && self.namespace != 0
    }

    /// Whether it is still the same mount, by all that tells.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.id == other.id
            && self.unique == other.unique
            && self.superblock == other.superblock
    }
}

impl Kernel<'_> {
    /// Reads mounts; `None` for what is not readable or makes no sense.
    #[must_use]
    pub fn mounts(&self, addresses: &[u64]) -> Vec<Option<Mount>> {
        let t = &self.layout.table;
        let ends = [
            t.mount_id,
            t.mount_group_id,
            t.mount_devname,
            t.mount_ns,
            t.mount_mp,
            t.mount_master,
            t.mount_flags,
        ];
        let unique_end = if t.mount_id_unique == ABSENT {
            0
        } else {
            t.mount_id_unique
        };
        let len = ends.iter().copied().max().unwrap_or(0).max(unique_end) as usize + 8;
        let batch = self.memory.read_batch(addresses, 0, len);
        let parse = |address: u64, piece: &[u8]| {
            let word = |offset: u32| u64_at(piece, offset as usize);
            let mount = Mount {
                address,
                parent: word(t.mount_parent)?,
                mountpoint: word(t.mount_mountpoint)?,
                root: word(t.mount_root)?,
                superblock: word(t.mount_sb)?,
                id: u32_at(piece, t.mount_id as usize)?,
                unique: word(t.mount_id_unique),
                namespace: word(t.mount_ns)?,
                group: u32_at(piece, t.mount_group_id as usize)?,
                master: word(t.mount_master)?,
                per_cpu: word(t.mount_pcp)?,
                first_child: word(t.mount_mounts)?,
                device_name: word(t.mount_devname)?,
                mountpoint_object: word(t.mount_mp)?,
                flags: u32_at(piece, t.mount_flags as usize)?,
            };
            (is_kernel_address(mount.root) && is_kernel_address(mount.superblock)).then_some(mount)
        };
        addresses
            .iter()
            .zip(batch.iter())
            .map(|(address, piece)| parse(*address, piece?))
            .collect()
    }

    /// One mount.
    #[must_use]
    pub fn mount(&self, address: u64) -> Option<Mount> {
        self.mounts(&[address]).pop().flatten()
    }

    /// Addresses of the children of a mount; and whether the list was whole.
    #[must_use]
    pub fn children(&self, mount: &Mount) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        let head = mount.address.wrapping_add(u64::from(t.mount_mounts));
        if mount.first_child == head {
            return Listing::new(Vec::new(), true);
        }
        let chain = self.memory.chase(mount.first_child, 0, head, MOUNTS_MAX);
        let link = u64::from(t.mount_child);
        let items = chain.nodes.iter().map(|node| node.wrapping_sub(link)).collect();
        Listing::new(items, chain.complete)
    }

    /// All mounts below (and with) the root mount of a namespace; `false` if the walk was cut short.
    #[must_use]
    pub fn mount_tree(&self, root: u64) -> Listing<Vec<Mount>> {
        self.mount_tree_of(root, MOUNTS_MAX)
    }

    /// The same of so many mounts at the most: those next to the root first.
    #[must_use]
    pub fn mount_tree_of(&self, root: u64, most: usize) -> Listing<Vec<Mount>> {
        let mut seen = HashSet::new();
        let mut whole = true;
        let mut level = vec![root];
        let mut all = Vec::new();
        while !level.is_empty() && all.len() < most {
            level.retain(|address| seen.insert(*address));
            let room = most - all.len();
            whole &= level.len() <= room;
            level.truncate(room);
            let mut next = Vec::new();
            for mount in self.mounts(&level) {
                let Some(mount) = mount else {
                    whole = false;
                    continue;
                };
                let children = self.children(&mount).joined_to(&mut whole);
                next.extend(children);
                all.push(mount);
            }
            level = next;
        }
        Listing::new(all, whole && level.is_empty())
    }

    /// All mounts of a superblock, in whatever namespace, or in none.
    #[must_use]
    pub fn mounts_of_superblock(&self, superblock: u64) -> Listing<Vec<u64>> {
        let t = &self.layout.table;
        if t.mount_next_for_sb != ABSENT {
            let first = self.memory.word(superblock, t.sb_mounts).unwrap_or(0);
            let chain = self.memory.chase(first, t.mount_next_for_sb, 0, MOUNTS_MAX);
            return Listing::new(chain.nodes, chain.complete);
        }
        let head = superblock.wrapping_add(u64::from(t.sb_mounts));
        let chain = self.memory.ring(head, MOUNTS_MAX);
        let link = u64::from(t.mount_instance);
        let items = chain.nodes.iter().map(|node| node.wrapping_sub(link)).collect();
        Listing::new(items, chain.complete)
    }

    /// What was mounted (`/dev/sda1`, `overlay`).
    #[must_use]
    pub fn device_name(&self, mount: &Mount) -> Option<Vec<u8>> {
        self.memory.string(mount.device_name, 4096)
    }

    /// Device number and file system type of superblocks.
    #[must_use]
    pub fn superblock(&self, superblock: u64) -> Option<Superblock> {
        let t = &self.layout.table;
        let device = self.memory.half(superblock, t.sb_dev)?;
        let fs_type = self.memory.word(superblock, t.sb_type)?;
        let name = self.memory.word(fs_type, t.fs_type_name)?;
        let mut name = self.memory.string(name, 64)?;
        let subtype = self
            .memory
            .word(superblock, t.sb_subtype)
            .filter(|pointer| *pointer != 0);
        if let Some(subtype) = subtype.and_then(|pointer| self.memory.string(pointer, 64)) {
            name.push(b'.');
            name.extend(subtype);
        }
        // dev_t in the kernel: 12 bits of major, 20 of minor (include/linux/kdev_t.h).
        let device = format!("{}:{}", device >> 20, device & 0xf_ffff);
        Some(Superblock {
            device,
            fs_type: String::from_utf8_lossy(&name).into_owned(),
        })
    }

    /// The user namespaces to which mount namespaces belong, in order: whoever is root there may mount in them.
    #[must_use]
    pub fn namespace_owners(&self, namespaces: &[u64]) -> Vec<Option<u64>> {
        match self.layout.table.mnt_ns_user {
            ABSENT => vec![None; namespaces.len()],
            offset => self.memory.words(namespaces, offset),
        }
    }

    /// The user id on whose account a user namespace is: of whoever made the outermost one that it is in; `None` for the
    /// first one, and where that is not to be known.
    #[must_use]
    pub fn account(&self, user_namespace: u64) -> Option<u32> {
        const NESTED_MAX: usize = 33;
        let t = &self.layout.table;
        let mut outermost = None;
        let mut namespace = user_namespace;
        for _ in 0..NESTED_MAX {
            let parent = self.memory.word(namespace, t.user_ns_parent)?;
            if parent == 0 {
                break;
            }
            outermost = Some(namespace);
            namespace = parent;
        }
        self.memory.half(outermost?, t.user_ns_owner)
    }

    /// Numbers of mount namespaces, by address.
    #[must_use]
    pub fn namespace_numbers(&self, namespaces: &[u64]) -> HashMap<u64, u32> {
        let wanted: Vec<u64> = namespaces
            .iter()
            .copied()
            .filter(|address| is_kernel_address(*address))
            .collect();
        let numbers = self.memory.halves(&wanted, self.layout.table.mnt_ns_inum);
        wanted
            .into_iter()
            .zip(numbers)
            .filter_map(|(address, number)| Some((address, number?)))
            .collect()
    }
}

/// What a mount is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// `major:minor`.
    pub device: String,
    /// File system type, with its subtype.
    pub fs_type: String,
}
