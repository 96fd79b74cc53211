//! Block devices: their numbers, and who has them: file systems, other devices, swap, processes. All of it from kernel
//! memory and sysfs; no device is opened.

use std::{collections::HashSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path};

use super::keepers::Keepers;
use crate::{
    kernel::{Mount, block_types, device_numbers},
    model::{EvidenceSource, Holder, Kind, Text, Through},
};

/// Entries of a directory of sysfs at the most.
const ENTRIES_MAX: usize = 4096;

/// The number of the block device of a path like `/dev/sda1` or `/dev/mapper/vg-data`, as the kernel has it.
#[must_use]
pub fn device_of(path: &[u8]) -> Option<u32> {
    let name = path.strip_prefix(b"/dev/")?;
    if let Some(mapped) = name.strip_prefix(b"mapper/") {
        let disks = fs::read_dir("/sys/block").ok()?.take(ENTRIES_MAX).flatten();
        let mut named = disks.map(|entry| entry.path()).filter(|disk| {
            let found = fs::read(disk.join("dm/name")).unwrap_or_default();
            found.strip_suffix(b"\n") == Some(mapped)
        });
        return number(&named.next()?);
    }
    if name.is_empty() || name.contains(&b'/') || name.starts_with(b".") {
        return None;
    }
    number(&Path::new("/sys/class/block").join(OsStr::from_bytes(name)))
}

fn number(directory: &Path) -> Option<u32> {
    let text = fs::read_to_string(directory.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

/// The name of a block device below `/dev`.
pub(super) fn name_of(device: u32) -> Option<String> {
    let (major, minor) = device_numbers(device);
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// A disk that is a loop device, by the number of it or of a partition: its name and number.
pub(super) fn loop_disk(device: u32) -> Option<(String, u32)> {
    let (major, minor) = device_numbers(device);
    let mut link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if Path::new("/sys/dev/block").join(&link).join("partition").exists() {
        link.pop();
    }
    let name = link.file_name()?.to_str()?.to_owned();
    let directory = Path::new("/sys/block").join(&name);
    // Only a disk of the loop driver, and only while it has a file, has this directory.
    directory.join("loop").is_dir().then_some(())?;
    Some((name, number(&directory)?))
}

/// A device of device-mapper, by one of uuid, name and number, as the kernel looks for it (drivers/md/dm-ioctl.c
/// `__find_device_hash_cell`, 5.10 to 7.2): its name and number.
pub(super) fn mapped_device(name: &[u8], uuid: &[u8], encoded: u64) -> Option<(Vec<u8>, u32)> {
    let disks = fs::read_dir("/sys/block").ok()?.take(ENTRIES_MAX).flatten();
    let mut disks = disks.map(|entry| entry.path());
    let text = |disk: &Path, what: &str| -> Option<Vec<u8>> {
        let mut text = fs::read(disk.join(what)).ok()?;
        (text.pop() == Some(b'\n')).then_some(text)
    };
    let disk = disks.find(|disk| {
        if !uuid.is_empty() {
            text(disk, "dm/uuid").as_deref() == Some(uuid)
        } else if !name.is_empty() {
            text(disk, "dm/name").as_deref() == Some(name)
        } else {
            disk.join("dm").is_dir() && number(disk) == Some(decoded(encoded))
        }
    })?;
    Some((text(&disk, "dm/name")?, number(&disk)?))
}

/// A device number as system calls have it (`huge_decode_dev` of `linux/kdev_t.h`).
fn decoded(encoded: u64) -> u32 {
    let encoded = encoded as u32;
    let major = (encoded & 0xf_ff00) >> 8;
    let minor = (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00);
    (major << 20) | minor
}

/// What a loop device has, and since when: whether it is still that is told by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// The path of the file behind it, as the kernel writes it.
    pub(super) file: Vec<u8>,
    /// Goes up whenever it gets or loses a file (Linux 5.15 on).
    sequence: Option<u64>,
}

impl Bound {
    /// `None` for a device that has no file.
    pub(super) fn of(name: &str) -> Option<Self> {
        let directory = Path::new("/sys/block").join(name);
        let mut file = fs::read(directory.join("loop/backing_file")).ok()?;
        (file.pop() == Some(b'\n')).then_some(())?;
        let sequence = fs::read_to_string(directory.join("diskseq"));
        Some(Self {
            file,
            sequence: sequence.ok().and_then(|text| text.trim().parse().ok()),
        })
    }

    /// Whether the device gives it up when it is closed for the last time.
    pub(super) fn is_given_up(name: &str) -> bool {
        let flag = fs::read(format!("/sys/block/{name}/loop/autoclear"));
        flag.is_ok_and(|flag| flag == b"1\n")
    }
}

/// Everybody who has a device or one of its partitions open, for themselves or not.
pub(super) fn all_users(keepers: &Keepers<'_>, device: u32) -> Vec<Holder> {
    let mut devices = vec![device];
    if let Some(name) = name_of(device) {
        let directory = Path::new("/sys/block").join(&name);
        let parts = names(&directory.to_string_lossy()).into_iter();
        devices.extend(
            parts
                .map(|part| directory.join(part))
                .filter(|part| part.join("partition").is_file())
                .filter_map(|part| number(&part)),
        );
    }
    let mut holders = Vec::new();
    for device in devices {
        let (own, others) = users(keepers, device);
        holders.extend(own);
        holders.extend(others.into_iter().map(|holder| Holder {
            counted: true,
            attempts_blocked: 1,
            ..holder
        }));
    }
    holders
}

/// Who has a block device: those who have it for themselves, and those who only have it open.
pub(super) fn users(keepers: &Keepers<'_>, device: u32) -> (Vec<Holder>, Vec<Holder>) {
    let mut holders = mounted(keepers, device);
    if let Some(name) = name_of(device) {
        holders.extend(devices_above(&name));
        holders.extend(swap(&name));
    }
    let (own, others) = openers(keepers, device);
    holders.extend(own);
    (holders, others)
}

/// Mounts of its file system, in whatever namespace, and the files that keep those that are in none.
fn mounted(keepers: &Keepers<'_>, device: u32) -> Vec<Holder> {
    let kernel = keepers.kernel;
    let mut superblocks: HashSet<u64> = keepers
        .view
        .all()
        .map(|(_, mounted)| mounted.mount.superblock)
        .collect();
    superblocks.extend(block_types().iter().flat_map(|name| kernel.superblocks(name)));
    let mut superblocks: Vec<u64> = superblocks
        .into_iter()
        .filter(|superblock| kernel.superblock_device(*superblock) == Some(device))
        .collect();
    superblocks.sort_unstable();
    superblocks
        .into_iter()
        .flat_map(|superblock| of_superblock(keepers, superblock))
        .collect()
}

/// Everything that keeps a file system: its mounts, and who uses those that are in no namespace.
pub(super) fn of_superblock(keepers: &Keepers<'_>, superblock: u64) -> Vec<Holder> {
    let kernel = keepers.kernel;
    let addresses = kernel.mounts_of_superblock(superblock).items;
    let mounts: Vec<Mount> = kernel.mounts(&addresses).into_iter().flatten().collect();
    let mut holders = Vec::new();
    let mut hidden: Vec<&Mount> = Vec::new();
    for mount in &mounts {
        match keepers.view.mount(mount.address) {
            Some((_, mounted)) => holders.push(keepers.mount(mounted)),
            None => hidden.push(mount),
        }
    }
    let Some(any) = hidden.first() else {
        return holders;
    };
    let references = keepers.references(any);
    for mount in hidden {
        let mut users = references
            .iter()
            .filter(|reference| reference.mount == mount.address)
            .peekable();
        if users.peek().is_none() {
            holders.push(keepers.elsewhere(mount));
        }
        holders.extend(users.map(|reference| Holder {
            through: Through::PrivateCopy,
            counted: true,
            attempts_blocked: 1,
            ..reference.holder.clone()
        }));
    }
    holders
}

/// The paths that the kernel may know a device by: a node of device-mapper is a link to that of its number where udev
/// runs, and else a node of its own.
fn paths_of(name: &str) -> [String; 2] {
    let mapped = fs::read_to_string(format!("/sys/block/{name}/dm/name"));
    let path = format!("/dev/{name}");
    let mapped = mapped.map(|mapped| format!("/dev/mapper/{}", mapped.trim_end()));
    [mapped.unwrap_or_else(|_| path.clone()), path]
}

/// Device-mapper, md, and loop devices that are on top of it.
fn devices_above(name: &str) -> Vec<Holder> {
    let mut above: Vec<String> = names(&format!("/sys/class/block/{name}/holders"));
    let backing = paths_of(name).map(|path| path + "\n");
    above.extend(names("/sys/block").into_iter().filter(|disk| {
        let file = format!("/sys/block/{disk}/loop/backing_file");
        fs::read_to_string(file).is_ok_and(|text| backing.contains(&text))
    }));
    above
        .into_iter()
        .map(|above| by_kernel(format!("/dev/{above}"), name))
        .collect()
}

fn swap(name: &str) -> Option<Holder> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let paths = paths_of(name);
    let is_it = |line: &str| {
        let first = line.split_whitespace().next();
        paths.iter().any(|path| first == Some(path))
    };
    swaps
        .lines()
        .any(is_it)
        .then(|| by_kernel("swap".to_owned(), name))
}

fn by_kernel(by: String, device: &str) -> Holder {
    Holder {
        kind: Kind::Kernel,
        refs: 1,
        held_by: Some(Text::from(by.into_bytes())),
        path: Text::from(format!("/dev/{device}").into_bytes()),
        counted: true,
        attempts_blocked: 1,
        evidence: vec![EvidenceSource::Snapshot],
        takes_along: None,
        ..Holder::default()
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(ENTRIES_MAX);
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Processes that have the device itself open: for themselves, or just so.
fn openers(keepers: &Keepers<'_>, device: u32) -> (Vec<Holder>, Vec<Holder>) {
    let kernel = keepers.kernel;
    let owner = kernel.device_owner(device);
    let mut tables: Vec<u64> = keepers.all_processes().map(|task| task.files).collect();
    tables.sort_unstable();
    tables.dedup();
    let descriptors = kernel.descriptors(&tables).items;
    let mut files: Vec<u64> = descriptors.iter().map(|descriptor| descriptor.file).collect();
    files.sort_unstable();
    files.dedup();
    let of_device = kernel.files_of_device(&files, device);
    let path = name_of(device).map_or_else(Text::default, |name| {
        Text::from(format!("/dev/{name}").into_bytes())
    });
    let mut own = Vec::new();
    let mut others = Vec::new();
    for file in of_device {
        let Some(descriptor) = descriptors.iter().find(|descriptor| descriptor.file == file) else {
            continue;
        };
        let Some(task) = keepers
            .all_processes()
            .find(|task| task.files == descriptor.table)
        else {
            continue;
        };
        let exclusive = owner == Some(file);
        let holder = Holder {
            kind: Kind::Fd,
            refs: 1,
            process: Some(keepers.process(task)),
            fd: Some(descriptor.fd),
            access: kernel.file_flags(file).map(crate::kernel::access),
            path: path.clone(),
            seen_as: Some(path.clone()),
            counted: exclusive,
            attempts_blocked: u64::from(exclusive),
            evidence: vec![EvidenceSource::Snapshot],
            takes_along: None,
            ..Holder::default()
        };
        if exclusive { &mut own } else { &mut others }.push(holder);
    }
    (own, others)
}

#[cfg(test)]
mod tests {
    use super::{decoded, device_of};

    #[test]
    fn a_number_as_system_calls_have_it() {
        // 253:3, and 259:1048575 (`huge_encode_dev`).
        assert_eq!(decoded(0xfd03), (253 << 20) | 3);
        assert_eq!(decoded(0xfff1_03ff), (259 << 20) | 0xf_ffff);
    }

    #[test]
    fn only_names_of_devices_are_looked_for() {
        for path in [
            &b"/dev/"[..],
            b"/dev/../sys",
            b"/dev/a/b",
            b"/etc/passwd",
            b"/dev/mapper/\xff",
            b"",
        ] {
            assert_eq!(device_of(path), None);
        }
    }
}
