//! Mapped files: the maple tree of mappings (Linux 6.1 on), or their list (before).

use std::collections::HashSet;

use tracer_common::ABSENT;

use super::{
    context::Kernel,
    listing::Listing,
    memory::{Batch, is_kernel_address, u64_at},
};

/// Mappings of one process at the most (`vm.max_map_count` can be raised to this).
const MAPPINGS_MAX: usize = 1 << 20;
/// Mappings of all processes at the most, and nodes of their trees.
const ALL_MAPPINGS_MAX: usize = 1 << 22;
/// A maple node, which is aligned to its size; the low bits of a pointer to one have its type.
const NODE: usize = 256;
const NODE_MASK: u64 = 255;
/// Where the type of a node is in a pointer to it (`mte_node_type` of `maple_tree.h`; 6.1 to 7.2).
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u64 = 15;

/// A file mapped by an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappedFile {
    /// Address of the `mm_struct`.
    pub mm: u64,
    /// Address of the `struct file`.
    pub file: u64,
}

/// A node to visit: its tagged pointer, the last index that it covers, the address space.
type Visit = (u64, u64, u64);

impl Kernel<'_> {
    /// Files mapped by address spaces, each once; and whether all mappings could be read.
    #[must_use]
    pub fn mapped_files(&self, mms: &[u64]) -> Listing<Vec<MappedFile>> {
        let t = &self.layout.table;
        let Listing {
            items: vmas,
            complete,
        } = if t.mm_ma_root == ABSENT {
            self.listed_mappings(mms)
        } else {
            self.tree_mappings(mms)
        };
        let addresses: Vec<u64> = vmas.iter().map(|(vma, _)| *vma).collect();
        let owners = self.memory.words(&addresses, t.vma_mm);
        let files = self.memory.words(&addresses, t.vma_file);
        let mut found: Vec<MappedFile> = vmas
            .iter()
            .zip(owners.into_iter().zip(files))
            // A mapping that was freed under the walk does not belong to the address space any more.
            .filter(|((_, mm), (owner, _))| *owner == Some(*mm))
            .filter_map(|((_, mm), (_, file))| Some(MappedFile { mm: *mm, file: file? }))
            .filter(|mapped| is_kernel_address(mapped.file))
            .collect();
        found.sort_unstable();
        found.dedup();
        Listing::new(found, complete)
    }

    fn listed_mappings(&self, mms: &[u64]) -> Listing<Vec<(u64, u64)>> {
        let t = &self.layout.table;
        let mut found = Vec::new();
        let mut complete = true;
        for (mm, first) in mms.iter().zip(self.memory.words(mms, t.mm_mmap)) {
            let chain = self.memory.chase(first.unwrap_or(0), t.vma_next, 0, MAPPINGS_MAX);
            complete &= chain.complete;
            found.extend(chain.nodes.into_iter().map(|vma| (vma, *mm)));
            if found.len() > ALL_MAPPINGS_MAX {
                return Listing::new(found, false);
            }
        }
        Listing::new(found, complete)
    }

    /// All trees at once, level by level.
    fn tree_mappings(&self, mms: &[u64]) -> Listing<Vec<(u64, u64)>> {
        let roots = self.memory.words(mms, self.layout.table.mm_ma_root);
        let mut found = Vec::new();
        let mut complete = true;
        let mut level: Vec<Visit> = Vec::new();
        for (mm, root) in mms.iter().zip(roots) {
            match root {
                // An internal entry is a node; anything else is the one mapping itself.
                Some(root) if root & 3 == 2 && root > 4096 => level.push((root, u64::MAX, *mm)),
                Some(root) if is_kernel_address(root) => found.push((root, *mm)),
                Some(_) => {}
                None => complete = false,
            }
        }
        let mut seen = HashSet::new();
        // A tree of height 10 has more mappings than memory.
        for _ in 0..10 {
            if level.is_empty() || level.len() + found.len() > ALL_MAPPINGS_MAX {
                break;
            }
            let addresses: Vec<u64> = level.iter().map(|(node, ..)| node & !NODE_MASK).collect();
            let batch = self.memory.read_batch(&addresses, 0, NODE);
            level = self.visit(&level, &batch, &mut found, &mut complete);
            // No node is in a tree twice: a ring of nodes is none.
            let before = level.len();
            level.retain(|(node, ..)| seen.insert(node & !NODE_MASK));
            complete &= level.len() == before;
        }
        Listing::new(found, complete && level.is_empty())
    }

    fn visit(
        &self,
        level: &[Visit],
        batch: &Batch,
        found: &mut Vec<(u64, u64)>,
        complete: &mut bool,
    ) -> Vec<Visit> {
        let t = &self.layout.table;
        let [leaf, range, arange] = self.layout.maple_types;
        let mut next = Vec::new();
        for ((node, last, mm), piece) in level.iter().zip(batch.iter()) {
            let kind = (node >> TYPE_SHIFT & TYPE_MASK) as i64;
            let (pivots, slots, count) = if kind == leaf || kind == range {
                (t.maple_r64_pivot, t.maple_r64_slot, self.layout.range_slots)
            } else if kind == arange {
                (t.maple_a64_pivot, t.maple_a64_slot, self.layout.arange_slots)
            } else {
                *complete = false;
                continue;
            };
            let Some(piece) = piece else {
                *complete = false;
                continue;
            };
            for slot in 0..count {
                let Some(entry) = u64_at(piece, slots as usize + slot * 8) else {
                    break;
                };
                // The last slot has no pivot: it ends where the node does. A pivot of zero ends the node early.
                let pivot = if slot + 1 < count {
                    u64_at(piece, pivots as usize + slot * 8)
                } else {
                    None
                };
                let end = match pivot {
                    Some(0) if slot > 0 => *last,
                    Some(pivot) => pivot.min(*last),
                    None => *last,
                };
                if is_kernel_address(entry) {
                    if kind == leaf {
                        found.push((entry, *mm));
                    } else {
                        next.push((entry, end, *mm));
                    }
                }
                if end >= *last {
                    break;
                }
            }
        }
        next
    }
}
