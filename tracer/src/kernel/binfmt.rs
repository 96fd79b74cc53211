//! Entries of binfmt_misc with the flag `F`: the interpreter stays open from the registration on, so that it can be used in
//! containers.
//!
//! Each file of binfmt_misc has its entry as private data, in every kernel; from Linux 6.7 on there is a superblock for
//! each user namespace. The entries go with their superblock.

use std::rc::Rc;

use tracer_common::ABSENT;

use super::{
    found::Carried,
    listing::note,
    memory::is_kernel_address,
    module::BinfmtFields,
    needs::{Needs, has},
    walk::Walk,
};
use crate::model::{Kind, Text};

/// Files of one superblock at the most.
const FILES_MAX: usize = 1 << 16;
/// A `Node` where its fields are not known (5.10: it has 88 bytes, in a slab of 96).
const SEARCHED: usize = 96;
/// `NAME_MAX`: it is the name of a file.
const NAME_MAX: usize = 255;

pub(super) const NEEDS: Needs = needs![sb_inodes, inode_sb_list, inode_private];

impl Walk<'_, '_> {
    /// The interpreters that binfmt_misc keeps open.
    pub(super) fn interpreters(&mut self) {
        let kernel = self.kernel;
        let t = &kernel.layout.table;
        let superblocks = kernel.superblocks_of("binfmt_misc");
        if superblocks.is_empty() {
            return;
        }
        if !has(NEEDS, t) {
            note(
                self.gaps,
                false,
                "the entries of binfmt_misc could not be looked at",
            );
            return;
        }
        let fields: BinfmtFields = kernel.ways.module();
        for superblock in superblocks {
            let head = superblock.wrapping_add(u64::from(t.sb_inodes));
            let ring = kernel.memory.ring(head, FILES_MAX);
            note(
                self.gaps,
                ring.complete,
                "the entries of binfmt_misc changed under the walk",
            );
            let inodes: Vec<u64> = ring
                .nodes
                .iter()
                .map(|link| link.wrapping_sub(u64::from(t.inode_sb_list)))
                .collect();
            let owners = kernel.memory.words(&inodes, t.inode_sb);
            let entries = kernel.memory.words(&inodes, t.inode_private);
            for ((inode, owner), entry) in inodes.into_iter().zip(owners).zip(entries) {
                let Some(entry) = entry.filter(|entry| is_kernel_address(*entry)) else {
                    continue;
                };
                if owner != Some(superblock) {
                    continue;
                }
                let file = if fields.file == ABSENT {
                    self.searched(entry, SEARCHED, None)
                } else {
                    kernel.memory.word(entry, fields.file)
                };
                if let Some(file) = file.filter(|file| is_kernel_address(*file)) {
                    self.carried.push(Carried {
                        kind: Kind::BinfmtMisc,
                        file,
                        users: Rc::default(),
                        held_by: self.entry_name(inode, entry, fields).map(Text::from),
                        request: None,
                    });
                }
            }
        }
    }

    /// What the entry says, or its file is called.
    fn entry_name(&self, inode: u64, entry: u64, fields: BinfmtFields) -> Option<Vec<u8>> {
        let (kernel, memory) = (self.kernel, self.kernel.memory);
        let t = &kernel.layout.table;
        if fields.name != ABSENT {
            return memory.string(memory.word(entry, fields.name)?, NAME_MAX);
        }
        let alias = memory
            .word(inode, t.inode_dentries)
            .filter(|alias| is_kernel_address(*alias) && t.dentry_alias != ABSENT)?;
        let dentry = alias.wrapping_sub(u64::from(t.dentry_alias));
        let leads_back = memory.word(dentry, t.dentry_inode) == Some(inode);
        kernel
            .short_names(&[dentry], 64)
            .pop()
            .flatten()
            .filter(|_| leads_back)
    }
}
