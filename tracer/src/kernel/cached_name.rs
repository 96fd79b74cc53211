//! Names as the kernel's cache of directories has them: read from its memory, so that nothing is looked up, no file system
//! is asked, and no mount is referred to.

use tracer_common::ABSENT;

use super::{
    Kernel,
    memory::{u32_at, u64_at},
};

/// Names of one directory that are looked at.
const NAMES_MAX: usize = 32_768;
/// A name that is longer than this is none (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Bytes of a symbolic link (`PATH_MAX`).
const LINK_MAX: usize = 4096;
const TYPE: u16 = 0xf000;
const SYMBOLIC_LINK: u16 = 0xa000;

/// What the cache says of a name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachedName {
    /// There is none: it was not asked for lately, or is known not to exist.
    None,
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// Something else, at this dentry.
    Other(u64),
    /// There may be one, or it is a link whose text is not in memory.
    Unknown,
}

impl Kernel<'_> {
    /// Looks for a name in a directory, by its dentry.
    #[must_use]
    pub fn cached_name(self, directory: u64, name: &[u8]) -> CachedName {
        let t = &self.layout.table;
        if [t.dentry_children, t.dentry_sibling, t.dentry_inode, t.inode_mode].contains(&ABSENT)
            || name.len() > NAME_MAX
        {
            return CachedName::Unknown;
        }
        let Some(first) = self.memory.word(directory, t.dentry_children) else {
            return CachedName::Unknown;
        };
        // A ring before Linux 6.8, which leads back to its head; a chain with an end later.
        let head = directory.wrapping_add(u64::from(t.dentry_children));
        let links = self.memory.chase(first, 0, head, NAMES_MAX);
        let dentries: Vec<u64> = links
            .nodes
            .iter()
            .map(|link| link.wrapping_sub(u64::from(t.dentry_sibling)))
            .collect();
        match self.named(&dentries, name) {
            Some(dentry) => self.what_is(dentry),
            None if links.complete => CachedName::None,
            None => CachedName::Unknown,
        }
    }

    fn named(self, dentries: &[u64], name: &[u8]) -> Option<u64> {
        let t = &self.layout.table;
        let len = t.dentry_name.max(t.dentry_name_len).max(t.dentry_hash_pprev) as usize + 8;
        let heads = self.memory.read_batch(dentries, 0, len);
        dentries.iter().zip(heads.iter()).find_map(|(dentry, head)| {
            let head = head?;
            let hashed = u64_at(head, t.dentry_hash_pprev as usize)? != 0;
            if !hashed || u32_at(head, t.dentry_name_len as usize)? as usize != name.len() {
                return None;
            }
            let text = self
                .memory
                .read_batch(&[u64_at(head, t.dentry_name as usize)?], 0, name.len());
            (text.get(0)? == name).then_some(*dentry)
        })
    }

    fn what_is(self, dentry: u64) -> CachedName {
        let t = &self.layout.table;
        let inode = match self.memory.word(dentry, t.dentry_inode) {
            None => return CachedName::Unknown,
            Some(0) => return CachedName::None,
            Some(inode) => inode,
        };
        let mode = self.memory.read_batch(&[inode], t.inode_mode, 2);
        let Some(&[low, high]) = mode.get(0) else {
            return CachedName::Unknown;
        };
        if u16::from_le_bytes([low, high]) & TYPE != SYMBOLIC_LINK {
            return CachedName::Other(dentry);
        }
        let text = (t.inode_link != ABSENT)
            .then(|| self.memory.word(inode, t.inode_link).filter(|text| *text != 0))
            .flatten()
            .and_then(|text| self.memory.string(text, LINK_MAX))
            .filter(|text| !text.is_empty());
        text.map_or(CachedName::Unknown, CachedName::Link)
    }
}
