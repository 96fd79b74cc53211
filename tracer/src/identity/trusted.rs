//! Opens the files of runtimes, and nothing else.
//!
//! Anybody can choose a path that ebusy learnt from a mount, and anybody who may write on the way to a file can put
//! there an object that hangs its opener (a FIFO, a file system that does not answer) or acts when it is opened (a
//! device). So ebusy enters only the superuser's own directories, only on local file systems, crosses no links and no
//! other mounts in them, and opens only regular files.
//!
//! An open directory is a reference to its mount: a [`Folder`] is kept only while ebusy reads in it, and opened only
//! when nobody unmounts that (see [`super::Containers::learn_all`] and [`super::Containers::learn`]).

use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, readlinkat};

use super::{
    files::{Stamp, below, unescape},
    watch::WatchPatterns,
};
use crate::owned::{Owners, Way};

/// Longest file of a runtime: a real `config.json` has some 10 KiB.
const FILE_CAP: u64 = 4 * 1024 * 1024;
/// Directories with more entries are not searched further.
const ENTRIES_MAX: usize = 8192;

/// Local file systems. On others an open may take forever.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "tmpfs",
    "xfs", "zfs",
];

/// An opened directory of a runtime.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens one. `None` if it is not there, or if others than the superuser can change its contents.
    pub(crate) fn open(host: &Path, path: &Path, watched: &WatchPatterns) -> Option<Self> {
        let mounts = MountTable::read()?;
        let owners = Owners::superuser();
        let way = Way {
            root: host,
            owners: &owners,
            make: false,
            // From the mount table alone: a call to the file system itself could hang.
            may_enter: &|path| {
                mounts.is_local(&below(host, path)) && !watched.covers(path.as_os_str().as_bytes())
            },
        };
        let found = path.is_absolute().then(|| way.to(path))?.ok()?;
        // Nobody else may write in the directory itself.
        owners
            .others(&fstat(&found).ok()?)
            .is_none()
            .then_some(Self(found))
    }

    /// Reads a file in it, at most the first part of a very long one.
    pub(crate) fn read(&self, path: &Path) -> Option<(Stamp, Vec<u8>)> {
        let file = self.file(path)?;
        let stamp = Stamp::from(&fstat(&file).ok()?);
        let mut bytes = Vec::new();
        file.take(FILE_CAP).read_to_end(&mut bytes).ok()?;
        Some((stamp, bytes))
    }

    /// Opens a regular file in it.
    pub(crate) fn file(&self, path: &Path) -> Option<File> {
        // Check first: opening anything but a regular file can block, or have side effects.
        let found = self.look(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = fstat(&found).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_ours(&stat) {
            return None;
        }
        let same = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Some(File::from(open(same, flags, Mode::empty()).ok()?))
    }

    /// The status of an entry, without opening it.
    pub(crate) fn stat(&self, path: &Path) -> Option<Stat> {
        fstat(self.look(path, OFlags::PATH | OFlags::NOFOLLOW)?).ok()
    }

    /// The target of a link in it.
    pub(crate) fn link(&self, path: &Path) -> Option<PathBuf> {
        let link = self.look(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        if !is_ours(&fstat(&link).ok()?) {
            return None;
        }
        let target = readlinkat(&link, "", Vec::new()).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Names in a directory below that are text, in order.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        let Some(directory) = self.look(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::new(directory) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX)
            .map_while(Result::ok)
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort_unstable();
        names
    }

    fn look(&self, path: &Path, flags: OFlags) -> Option<OwnedFd> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
    }
}

fn is_ours(stat: &Stat) -> bool {
    Owners::superuser().own(stat)
}

/// Mountpoints of ebusy's own namespace, with true for a local file system.
struct MountTable(Vec<(PathBuf, bool)>);

impl MountTable {
    fn read() -> Option<Self> {
        Some(Self::of(&std::fs::read("/proc/self/mountinfo").ok()?))
    }

    fn of(mountinfo: &[u8]) -> Self {
        let line = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ');
            let point = fields.by_ref().nth(4)?;
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let local = LOCAL.iter().any(|local| local.as_bytes() == kind);
            Some((
                PathBuf::from(std::ffi::OsString::from_vec(unescape(point))),
                local,
            ))
        };
        Self(mountinfo.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    /// True if a path is on a local file system.
    fn is_local(&self, path: &Path) -> bool {
        let mut best: Option<(usize, bool)> = None;
        for (point, local) in &self.0 {
            // The last mount on a place hides the others.
            let depth = point.components().count();
            if path.starts_with(point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
                best = Some((depth, *local));
            }
        }
        best.is_some_and(|(_, local)| local)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::Path,
    };

    use super::{Folder, MountTable};
    use crate::identity::WatchPatterns;

    fn open(host: &Path, path: &str) -> Option<Folder> {
        Folder::open(host, Path::new(path), &WatchPatterns::default())
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn local_is_told_from_the_mount_table() {
        let mounts = MountTable::of(
            b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
              30 22 0:26 / /run rw shared:2 - tmpfs tmpfs rw\n\
              40 22 0:40 / /mnt/a\\040b rw - nfs4 server:/x rw\n\
              41 30 0:41 / /run/f rw shared:5 master:1 - fuse.sshfs x rw\n\
              42 22 0:42 / /over rw - nfs server:/y rw\n43 42 0:43 / /over rw - tmpfs t rw\n",
        );
        for (path, local) in [
            ("/srv/x", true),
            ("/run/containerd", true),
            ("/run/f/state", false),
            ("/run/fo/state", true),
            ("/mnt/a b", false),
            ("/mnt/a b/c", false),
            ("/mnt/a", true),
            ("/over/x", true),
        ] {
            assert_eq!(mounts.is_local(Path::new(path)), local, "{path}");
        }
        assert!(!MountTable::of(b"").is_local(Path::new("/")));
    }

    #[test]
    fn links_of_the_superuser_lead_to_a_folder_and_none_lead_out_of_it() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        fs::create_dir_all(at("data/docker/containers")).unwrap();
        fs::create_dir_all(at("var/lib")).unwrap();
        fs::write(at("data/docker/x"), "text").unwrap();
        fs::write(at("data/secret"), "secret").unwrap();
        symlink("/data/docker", at("var/lib/docker")).unwrap();
        symlink("../data/docker", at("var/relative")).unwrap();
        symlink("../secret", at("data/docker/out")).unwrap();
        symlink("/var/loop", at("var/loop")).unwrap();
        let folder = open(host.path(), "/var/lib/docker").unwrap();
        assert_eq!(folder.read(Path::new("x")).unwrap().1, b"text");
        assert_eq!(folder.names(Path::new("")), ["containers", "out", "x"]);
        for path in ["out", "../secret", "/etc/passwd", "containers", "none"] {
            assert!(folder.read(Path::new(path)).is_none(), "{path}");
        }
        assert_eq!(folder.link(Path::new("out")).unwrap(), Path::new("../secret"));
        assert!(open(host.path(), "/var/relative").is_some());
        assert!(open(host.path(), "/var/loop").is_none());
        assert!(open(host.path(), "/var/lib/docker/x").is_none());
        assert!(open(host.path(), "relative").is_none());
    }

    #[test]
    fn where_others_may_write_nothing_is_opened() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        fs::create_dir_all(at("tmp/state/tasks")).unwrap();
        mode(&at("tmp"), 0o1777);
        assert!(open(host.path(), "/tmp/state").is_some());
        assert!(open(host.path(), "/tmp").is_none());
        mode(&at("tmp"), 0o777);
        assert!(open(host.path(), "/tmp/state").is_none());
        mode(&at("tmp"), 0o755);
        mode(&at("tmp/state"), 0o775);
        assert!(open(host.path(), "/tmp/state").is_none());
        mode(&at("tmp/state"), 0o1777);
        assert!(open(host.path(), "/tmp/state").is_none());
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let host = tempfile::tempdir().unwrap();
        let fifo = host.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        symlink("/dev/zero", host.path().join("device")).unwrap();
        let folder = open(host.path(), "/").unwrap();
        for name in ["fifo", "device"] {
            assert!(folder.file(Path::new(name)).is_none(), "{name}");
        }
        fs::write(host.path().join("long"), vec![b' '; 5 << 20]).unwrap();
        assert_eq!(folder.read(Path::new("long")).unwrap().1.len(), 4 << 20);
    }

    #[test]
    fn nothing_below_a_watched_mount() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir_all(host.path().join("run/netns/x/y")).unwrap();
        assert!(open(host.path(), "/run").is_some());
        assert!(open(host.path(), "/run/netns/x/y").is_none());
        assert!(open(host.path(), "/srv/../run/netns/x").is_none());
    }
}
