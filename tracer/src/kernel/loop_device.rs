//! Loop devices: each keeps the file behind it open, with no process.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path, rc::Rc};

use tracer_common::ABSENT;

use super::{
    found::Carried,
    listing::note,
    memory::is_kernel_address,
    module::LoopFields,
    walk::Walk,
    ways::{SYSFS, open},
};
use crate::model::{Kind, Text};

/// Loop devices at the most (a host of snaps has hundreds).
const DEVICES_MAX: usize = 4096;
/// How much of a `loop_device` is searched where its fields are not known (Linux 5.10; it has 400 bytes and more).
const SEARCHED: usize = 384;

impl Walk<'_, '_> {
    /// The files behind loop devices.
    pub(super) fn loop_devices(&mut self) {
        if !self.kernel.ways.open() {
            return;
        }
        let bound = bound_devices();
        if bound.is_empty() {
            return;
        }
        let fields: LoopFields = self.kernel.ways.module();
        let mut complete = true;
        for (number, backing) in bound {
            let Some(device) = self.loop_device(number, &fields) else {
                // One that was detached meanwhile is none any more.
                complete &= backing_file(number).is_none();
                continue;
            };
            let file = if fields.file == ABSENT {
                self.searched(device, SEARCHED, file_name(&backing))
            } else {
                self.kernel.memory.word(device, fields.file)
            };
            let Some(file) = file.filter(|file| is_kernel_address(*file)) else {
                continue;
            };
            self.carried.push(Carried {
                kind: Kind::Loop,
                file,
                users: Rc::default(),
                held_by: Some(Text::from(format!("/dev/loop{number}").into_bytes())),
                request: None,
            });
        }
        note(self.gaps, complete, "a loop device could not be looked at");
    }

    /// The `loop_device` behind a disk: from its directory in sysfs to the `gendisk`, whose private data it is.
    fn loop_device(&self, number: u32, fields: &LoopFields) -> Option<u64> {
        let (kernel, memory) = (self.kernel, self.kernel.memory);
        let t = &kernel.layout.table;
        let directory = open(format!("/sys/block/loop{number}"), SYSFS)?;
        let inode = kernel.own_inode(std::os::fd::AsFd::as_fd(&directory))?;
        // kernfs: inode -> kernfs_node -> kobject, which is the first member of `struct device` (5.10 to 7.2).
        let node = memory.word(inode, t.inode_private)?;
        let device = memory.word(node, t.kernfs_private)?;
        let disk = if t.disk_device == ABSENT {
            if t.bdev_device == ABSENT {
                return None;
            }
            memory.word(device.wrapping_sub(u64::from(t.bdev_device)), t.bdev_disk)?
        } else {
            device.wrapping_sub(u64::from(t.disk_device))
        };
        let name = memory.string(disk.checked_add(u64::from(t.disk_name))?, 32)?;
        if t.disk_name == ABSENT || name != format!("loop{number}").as_bytes() {
            return None;
        }
        let found = memory
            .word(disk, t.disk_private)
            .filter(|found| is_kernel_address(*found))?;
        let its = |offset: u32, expected: bool| offset == ABSENT || expected;
        let leads_back = its(fields.disk, memory.word(found, fields.disk) == Some(disk))
            && its(fields.number, memory.half(found, fields.number) == Some(number));
        leads_back.then_some(found)
    }

    /// The only open file of this name, on a mount of interest, that an object of unknown layout points to.
    pub(super) fn searched(&self, object: u64, len: usize, name: Option<&[u8]>) -> Option<u64> {
        let kernel = self.kernel;
        let places: Vec<u64> = (0..len as u64 / 8)
            .map(|word| object.wrapping_add(word * 8))
            .collect();
        let mut words: Vec<u64> = kernel
            .memory
            .words(&places, 0)
            .into_iter()
            .flatten()
            .filter(|word| is_kernel_address(*word) && word % 8 == 0)
            .collect();
        words.sort_unstable();
        words.dedup();
        let mut files = kernel.files_on(&words, &self.interest, false).into_iter();
        let mut matching = files.by_ref().filter(|(_, path)| {
            let named = || kernel.short_names(&[path.dentry], 64).pop().flatten();
            kernel.fits(*path) && name.is_none_or(|name| named().as_deref() == Some(name))
        });
        let (file, _) = matching.next()?;
        matching.next().is_none().then_some(file)
    }
}

/// The numbers of loop devices that have a file, with its path as the kernel writes it.
fn bound_devices() -> Vec<(u32, Vec<u8>)> {
    let Ok(entries) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("loop")?.parse().ok()
    });
    numbers
        .filter_map(|number: u32| Some((number, backing_file(number)?)))
        .take(DEVICES_MAX)
        .collect()
}

/// `backing_file` exists while the device has one.
fn backing_file(number: u32) -> Option<Vec<u8>> {
    fs::read(format!("/sys/block/loop{number}/loop/backing_file")).ok()
}

/// The last component of what `backing_file` says.
pub(super) fn file_name(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b" (deleted)").unwrap_or(text);
    Some(Path::new(OsStr::from_bytes(text)).file_name()?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn the_name_of_a_backing_file() {
        assert_eq!(file_name(b"/m/img\n"), Some(&b"img"[..]));
        assert_eq!(file_name(b"/m/a b (deleted)\n"), Some(&b"a b"[..]));
        assert_eq!(file_name(b"/"), None);
    }
}
