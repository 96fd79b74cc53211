//! Why a system call other than umount2 was refused: what was asked for, and what keeps it.

use std::collections::HashSet;

use super::{
    device::{all_users, device_of, loop_disk, mapped_device, name_of, of_superblock, users},
    keepers::Keepers,
    links,
    mounts::{Mounted, NamespaceMounts},
    overlay::OverlayOptions,
    own_namespace,
    place::{Place, Places, on_mount},
    target::absolute_from,
};
use crate::{
    kernel::Kernel,
    model::{Holder, Operation, Reason, Text},
    stream::{BLOCK_DEVICE, RawOperation},
};

/// `MS_REMOUNT` and `MS_BIND` of mount(2); `AT_REMOVEDIR` of unlinkat(2).
const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const AT_REMOVEDIR: u64 = 0x200;
/// Commands of ioctl: `LOOP_CLR_FD`, `DM_DEV_REMOVE`.
const LOOP_CLEAR: u32 = 0x4c01;
const MAPPED_REMOVE: u32 = 0xc138_fd04;
/// `FSCONFIG_CMD_RECONFIGURE`.
const RECONFIGURE: u64 = 7;

/// What a refused call was to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// What.
    pub(super) operation: Operation,
    /// The paths that it was about, from the top of the caller's namespace; the first one names the target.
    pub(super) paths: Vec<Vec<u8>>,
    /// Number of the caller's mount namespace.
    pub(super) namespace: u32,
    subject: Subject,
}

#[derive(Debug, Clone, PartialEq)]
enum Subject {
    /// The paths, as names.
    Names,
    /// A mount with this source, options and directories; at the first path, if that is known.
    Mount {
        source: Vec<u8>,
        overlay: bool,
        options: OverlayOptions,
        /// Upper and work directory as dentries.
        directories: Vec<u64>,
    },
    /// The mount at the first path, or that of this root dentry; the whole file system, or only that mount.
    Remount { root: u64, whole: bool },
    /// A block device.
    Device(u32),
    /// A block device that goes when nobody has it open.
    Opened(u32),
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) reason: Reason,
    pub(super) holders: Vec<Holder>,
    pub(super) bystanders: Vec<Holder>,
}

impl Found {
    fn new(reason: Reason, holders: Vec<Holder>) -> Self {
        let reason = if holders.is_empty() {
            Reason::Unknown
        } else {
            reason
        };
        Self {
            reason,
            holders,
            bystanders: Vec::new(),
        }
    }
}

/// An ioctl on a device, or on what makes devices.
fn controlled(raw: &RawOperation) -> Option<(Operation, Vec<Vec<u8>>, Subject)> {
    let [name, uuid, _] = &raw.texts;
    let (operation, path, device) = match raw.arguments[1] as u32 {
        LOOP_CLEAR => {
            let (name, device) = loop_disk(raw.device)?;
            (Operation::LoopClear, format!("/dev/{name}").into_bytes(), device)
        }
        MAPPED_REMOVE => {
            let (name, device) = mapped_device(name, uuid, raw.arguments[3])?;
            (Operation::DmRemove, [b"/dev/mapper/", &name[..]].concat(), device)
        }
        _ => return None,
    };
    Some((operation, vec![path], Subject::Opened(device)))
}

impl Asked {
    /// From what the kernel sent, by the numbers of x86-64; `None` for what cannot be told or is not about this.
    pub(super) fn of(kernel: Kernel<'_>, raw: &RawOperation) -> Option<Self> {
        let namespace = raw.caller.mount_namespace?;
        let [first, second, third] = &raw.texts;
        let from = |text: &[u8], base| absolute_from(kernel, text, base, raw.root);
        let at = |text: &[u8], base: usize| from(text, raw.bases[base]);
        let here = |text: &[u8]| from(text, raw.cwd);
        let named = |operation, paths| (operation, paths, Subject::Names);
        let unlink = |removes: bool| {
            if removes {
                Operation::Rmdir
            } else {
                Operation::Unlink
            }
        };
        let whole = |flags: u64| flags & MS_BIND == 0;
        let (operation, paths, subject) = match raw.syscall {
            84 => named(Operation::Rmdir, vec![here(first)]),
            87 => named(Operation::Unlink, vec![here(first)]),
            263 => named(unlink(raw.arguments[2] & AT_REMOVEDIR != 0), vec![at(first, 0)]),
            82 => named(Operation::Rename, vec![here(first), here(second)]),
            264 | 316 => named(Operation::Rename, vec![at(first, 0), at(second, 1)]),
            165 if raw.arguments[3] & MS_REMOUNT != 0 => {
                let whole = whole(raw.arguments[3]);
                (
                    Operation::Remount,
                    vec![here(first)],
                    Subject::Remount { root: 0, whole },
                )
            }
            442 => {
                let whole = false;
                (
                    Operation::Remount,
                    vec![at(first, 0)],
                    Subject::Remount { root: 0, whole },
                )
            }
            165 => {
                let options = OverlayOptions::parse(third);
                let subject = Subject::Mount {
                    source: second.clone(),
                    overlay: raw.fs_name == b"overlay",
                    options: absolute(options, here),
                    directories: Vec::new(),
                };
                (Operation::Mount, vec![here(first)], subject)
            }
            431 if raw.arguments[1] & 0xffff_ffff == RECONFIGURE => {
                let root = raw.reconfigured;
                (
                    Operation::Remount,
                    Vec::new(),
                    Subject::Remount { root, whole: true },
                )
            }
            431 => {
                let overlay = raw.fs_name == b"overlay";
                let directories = raw
                    .bases
                    .iter()
                    .filter(|(mount, _)| overlay && kernel.mount(*mount).is_some())
                    .map(|(_, dentry)| *dentry)
                    .collect();
                let subject = Subject::Mount {
                    source: second.clone(),
                    overlay,
                    options: absolute(OverlayOptions::parse(third), here),
                    directories,
                };
                (Operation::Mount, Vec::new(), subject)
            }
            2 | 257 | 437 => {
                let path = if raw.syscall == 2 {
                    here(first)
                } else {
                    at(first, 0)
                };
                let subject = Subject::Device(device_of(&path)?);
                (Operation::Open, vec![path], subject)
            }
            BLOCK_DEVICE => {
                let path = format!("/dev/{}", name_of(raw.device)?).into_bytes();
                (Operation::Open, vec![path], Subject::Device(raw.device))
            }
            16 => controlled(raw)?,
            _ => return None,
        };
        Some(Self {
            operation,
            paths,
            namespace,
            subject,
        })
    }

    /// What the target is called: its path; where a mount has none yet, what was to be mounted.
    pub(super) fn name(&self) -> Vec<u8> {
        match (self.paths.first(), &self.subject) {
            (Some(path), _) => path.clone(),
            (None, Subject::Mount { source, options, .. }) => {
                options.upper.clone().unwrap_or_else(|| source.clone())
            }
            _ => Vec::new(),
        }
    }

    /// The block device that is to go.
    pub(super) fn opened_device(&self) -> Option<u32> {
        match self.subject {
            Subject::Opened(device) => Some(device),
            _ => None,
        }
    }

    /// Looks for what keeps it.
    pub(super) fn look(&self, keepers: &Keepers<'_>) -> Found {
        let unknown = || Found::new(Reason::Unknown, Vec::new());
        // Whoever asked, from wherever: the device is the same.
        if let Some(device) = self.opened_device() {
            return Found::new(Reason::DeviceInUse, all_users(keepers, device));
        }
        let Some(namespace) = keepers.view.namespace(self.namespace) else {
            return unknown();
        };
        match &self.subject {
            Subject::Names => Found::new(Reason::MountPoint, self.mounted_on(keepers, namespace)),
            Subject::Opened(_) => unknown(),
            Subject::Device(device) => {
                let (holders, bystanders) = users(keepers, *device);
                Found {
                    bystanders,
                    ..Found::new(Reason::DeviceInUse, holders)
                }
            }
            Subject::Remount { root, whole } => self
                .remounted(keepers, namespace, *root)
                .map_or_else(unknown, |mounted| open_files(keepers, mounted, *whole)),
            Subject::Mount { overlay: true, .. } => {
                Found::new(Reason::OverlayInUse, self.overlays(keepers, namespace))
            }
            Subject::Mount { source, .. } => {
                let device = device_of(source);
                let there = self.paths.first().and_then(|path| {
                    let (mounted, rest) = on_mount(namespace, path, true)?;
                    let same = match device {
                        Some(device) => {
                            keepers.kernel.superblock_device(mounted.mount.superblock) == Some(device)
                        }
                        None => keepers.kernel.device_name(&mounted.mount).as_ref() == Some(source),
                    };
                    (rest.is_empty() && same).then(|| keepers.on_top(mounted, path))
                });
                match (there, device) {
                    (Some(there), _) => Found::new(Reason::MountedThere, vec![there]),
                    (None, Some(device)) => {
                        let (holders, bystanders) = users(keepers, device);
                        Found {
                            bystanders,
                            ..Found::new(Reason::DeviceInUse, holders)
                        }
                    }
                    (None, None) => unknown(),
                }
            }
        }
    }

    /// What is mounted on the names, in the caller's namespace: the kernel asks for no other (Linux 3.19 on,
    /// fs/namespace.c `is_local_mountpoint`).
    fn mounted_on(&self, keepers: &Keepers<'_>, namespace: &NamespaceMounts) -> Vec<Holder> {
        let mut places = Places::new(keepers.kernel);
        let mut found = Vec::new();
        for path in &self.paths {
            let mut mounts = |path: &[u8]| {
                let place = places.of_path(namespace, path, false)?;
                let mounts = places.mounted_on(keepers.view, namespace, &place);
                let holders = mounts
                    .into_iter()
                    .map(|mounted| keepers.on_top(mounted, &place.path));
                Some(holders.collect::<Vec<_>>()).filter(|holders| !holders.is_empty())
            };
            let holders = mounts(path).or_else(|| {
                let own = own_namespace() == Some(namespace.number);
                mounts(&links::follow(namespace, path, false)).filter(|_| own)
            });
            found.extend(holders.unwrap_or_default());
        }
        // What is on top goes first.
        found.reverse();
        found
    }

    fn remounted<'v>(
        &self,
        keepers: &Keepers<'_>,
        namespace: &'v NamespaceMounts,
        root: u64,
    ) -> Option<&'v Mounted> {
        if let Some(path) = self.paths.first() {
            let (mounted, rest) = on_mount(namespace, path, true)?;
            return rest.is_empty().then_some(mounted);
        }
        let superblock = keepers.kernel.superblock_at(root)?;
        let mut mounts = namespace
            .mounts
            .iter()
            .filter(|mounted| mounted.mount.superblock == superblock);
        let by_root = mounts.clone().find(|mounted| mounted.mount.root == root);
        by_root.or_else(|| mounts.next())
    }

    /// Overlays whose upper or work directory is one of the directories of this one.
    fn overlays(&self, keepers: &Keepers<'_>, namespace: &NamespaceMounts) -> Vec<Holder> {
        let Subject::Mount {
            options, directories, ..
        } = &self.subject
        else {
            return Vec::new();
        };
        let kernel = keepers.kernel;
        let mut places = Places::new(kernel);
        let mut wanted: HashSet<Place> = directories
            .iter()
            .filter_map(|dentry| places.of_dentry(*dentry))
            .collect();
        let own = own_namespace() == Some(namespace.number);
        for path in options.upper.iter().chain(&options.work).chain(&options.lower) {
            wanted.extend(places.of_path(namespace, path, true));
            if own {
                let followed = links::follow(namespace, path, true);
                wanted.extend(places.of_path(namespace, &followed, true));
            }
        }
        let mut superblocks: Vec<u64> = kernel.superblocks("overlay");
        superblocks.sort_unstable();
        superblocks.dedup();
        superblocks.retain(|superblock| {
            let has = kernel.overlay_directories(*superblock);
            let dentries = has.into_iter().flat_map(|has| [has.upper, has.work]).flatten();
            dentries
                .filter_map(|dentry| places.of_dentry(dentry))
                .any(|place| wanted.contains(&place))
        });
        superblocks
            .into_iter()
            .flat_map(|superblock| of_superblock(keepers, superblock))
            .collect()
    }
}

/// Options with absolute paths.
fn absolute(options: OverlayOptions, from: impl Fn(&[u8]) -> Vec<u8>) -> OverlayOptions {
    let all = |paths: Vec<Vec<u8>>| paths.iter().map(|path| from(path)).collect();
    OverlayOptions {
        lower: all(options.lower),
        upper: options.upper.map(|path| from(&path)),
        work: options.work.map(|path| from(&path)),
    }
}

/// Files that are open for writing on a mount, or on any mount of its file system; of that also files that have no name
/// any more: their removal is not finished (fs/namespace.c `sb_prepare_remount_readonly`, 3.3 to 7.2).
fn open_files(keepers: &Keepers<'_>, mounted: &Mounted, whole: bool) -> Found {
    let references = keepers.references(&mounted.mount);
    let holders = references
        .into_iter()
        .filter(|reference| {
            let here = reference.mount == mounted.mount.address;
            (whole || here) && (reference.writes || whole && reference.holder.deleted)
        })
        .map(|reference| Holder {
            counted: true,
            attempts_blocked: 1,
            ..reference.holder
        });
    Found::new(Reason::OpenFiles, holders.collect())
}

/// The text of a path for the stream.
pub(super) fn text(path: &[u8]) -> Text {
    Text::from(path.to_vec())
}
