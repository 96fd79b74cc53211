//! Active swap areas: files, and block devices whose node is on the mount. Nothing but the kernel's array `swap_info`
//! leads to them.

use std::{fs, rc::Rc};

use super::{
    dentry::Paths,
    file::PathAddress,
    found::{Carried, Found},
    listing::note,
    memory::is_kernel_address,
    needs::Needs,
    walk::Walk,
};
use crate::model::{Kind, Text};

/// `MAX_SWAPFILES` is 1 << 5, less those that stand for something else (5.10 to 7.2).
const AREAS_MAX: u64 = 32;
/// `SWP_USED` (linux/swap.h; 5.10 to 7.2).
const USED: u64 = 1;

pub(super) const NEEDS: Needs = needs![swap_flags, swap_type, swap_file];

impl Walk<'_, '_> {
    /// Active swap areas; where the array has no symbol, those that /proc/swaps names below the target are candidates.
    pub(super) fn swap_files(&mut self) {
        if !self.kernel.ways.open() {
            return;
        }
        let listed = match fs::read("/proc/swaps") {
            Ok(text) => swap_areas(&text),
            // A kernel without swap has no such file.
            Err(_) => return,
        };
        if listed.is_empty() {
            return;
        }
        if let Some(table) = self.kernel.ways.swap_table() {
            let files = self.areas(table);
            if !files.is_empty() {
                self.carried.extend(files.into_iter().map(|file| Carried {
                    kind: Kind::Swap,
                    file,
                    users: Rc::default(),
                    held_by: None,
                    request: None,
                }));
                return;
            }
        }
        let root = self.subject.target.map(|target| PathAddress {
            mount: target.address,
            dentry: target.root,
        });
        let mount_point = root.and_then(|root| {
            let paths = &mut Paths::new(self.kernel);
            paths.seen_from(root.mount, root.dentry, None)?.whole()
        });
        let (Some(root), Some(mount_point)) = (root, mount_point) else {
            note(self.gaps, false, "the swap files could not be looked at");
            return;
        };
        for path in listed.iter().filter(|path| is_below(path, &mount_point)) {
            self.found.push(Found {
                held_by: Some(Text::from(path.clone())),
                reason: Some(
                    "/proc/swaps names a file below this mount; it could not be seen by reference, as the kernel \
                     shows no address of its swap areas (CONFIG_KALLSYMS_ALL, kernel.kptr_restrict)"
                        .to_owned(),
                ),
                ..Found::new(Kind::Swap, root.mount, root)
            });
        }
    }

    /// The files (and devices) of the areas in use; each area has its place in the array as its number.
    fn areas(&self, table: u64) -> Vec<u64> {
        let memory = self.kernel.memory;
        let t = &self.kernel.layout.table;
        let places: Vec<u64> = (0..AREAS_MAX).map(|area| table.wrapping_add(area * 8)).collect();
        let areas = memory.words(&places, 0).into_iter().zip(0_u8..);
        areas
            .filter_map(|(area, number)| {
                let area = area.filter(|area| is_kernel_address(*area))?;
                let used = memory.word(area, t.swap_flags)? & USED != 0;
                let batch = memory.read_batch(&[area], t.swap_type, 1);
                let is_it = batch.get(0)? == [number];
                memory
                    .word(area, t.swap_file)
                    .filter(|file| used && is_it && is_kernel_address(*file))
            })
            .collect()
    }
}

/// The paths in `/proc/swaps`: `Filename Type Size Used Priority`, with octal escapes.
pub(super) fn swap_areas(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let mut words = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let path = words.next()?;
            // `file` or `partition`: the node of a device can be on any file system.
            words.next().map(|_| unescape(path))
        })
        .collect()
}

/// `\040` is a space.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    plain
}

/// Whether a path is a mount point or below it.
fn is_below(path: &[u8], mount_point: &[u8]) -> bool {
    let mount_point = mount_point.strip_suffix(b"/").unwrap_or(mount_point);
    path.strip_prefix(mount_point)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::{is_below, swap_areas};

    #[test]
    fn paths_of_proc_swaps() {
        let text = b"Filename\t\t\tType\t\tSize\tUsed\tPriority\n/dev/zram0  partition\t1 0 5\n/m/a\\040b   file\t\t1020\t0\t-2\n";
        assert_eq!(swap_areas(text), [b"/dev/zram0".to_vec(), b"/m/a b".to_vec()]);
        assert!(swap_areas(b"").is_empty());
    }

    #[test]
    fn below_a_mount_point() {
        assert!(is_below(b"/m/a/swap", b"/m/a"));
        assert!(is_below(b"/m/a/swap", b"/"));
        assert!(!is_below(b"/m/ab", b"/m/a"));
    }
}
