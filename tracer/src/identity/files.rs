//! Reading small files of others with care.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, statat},
    process::geteuid,
};

/// Longest text of /proc that is looked at.
const PROC_CAP: u64 = 64 * 1024;
/// Longest `config.json`: real ones have some 10 KiB.
const CONFIG_CAP: u64 = 4 * 1024 * 1024;
/// Directories with more entries are not searched further.
const MAX_ENTRIES: usize = 8192;

/// What a file was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

/// Reads a file of /proc.
pub(super) fn read_proc(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(PROC_CAP).read_to_end(&mut text)?;
    Ok(text)
}

/// The stamp of a regular file that only its owner's equals can have put there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statat(rustix::fs::CWD, path, flags).ok()?;
    trusted(&stat).then(|| Stamp::from(&stat))
}

/// Reads a file of a runtime, at most the first part of a very long one.
pub(super) fn read_config(path: &Path) -> Option<(Stamp, Vec<u8>)> {
    let file = open_config(path)?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let mut bytes = Vec::new();
    file.take(CONFIG_CAP).read_to_end(&mut bytes).ok()?;
    Some((Stamp::from(&stat), bytes))
}

/// Opens a file of a runtime.
pub(super) fn open_config(path: &Path) -> Option<File> {
    // Looked at first: opening what is no regular file can block, or do something.
    stamp(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    trusted(&rustix::fs::fstat(&file).ok()?).then_some(file)
}

/// A path that was learnt from somebody's umount may lead to somebody's file: what others than root wrote could
/// give a mount a wrong name.
fn trusted(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && (stat.st_uid == 0 || stat.st_uid == geteuid().as_raw())
}

/// Names in a directory that are text, in order.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let entries = entries.take(MAX_ENTRIES).map_while(Result::ok);
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// File systems that answer from this machine. On others a file may take for ever to open.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "tmpfs",
    "xfs", "zfs",
];

/// Whether a path lies on a local file system, told from the mount table alone: to ask the file system itself could
/// hang. `mountinfo` is the text of ebusy's own.
pub(super) fn is_local(path: &Path, mountinfo: &[u8]) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let Some((point, kind)) = mount_line(line) else {
            continue;
        };
        // Of mounts on one place, the last hides the others.
        let depth = point.components().count();
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, LOCAL.iter().any(|local| local.as_bytes() == kind)));
        }
    }
    best.is_some_and(|(_, local)| local)
}

/// Mountpoint and file system type of a line of mountinfo.
fn mount_line(line: &[u8]) -> Option<(PathBuf, &[u8])> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.by_ref().nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((PathBuf::from(std::ffi::OsString::from_vec(unescape(point))), kind))
}

/// mountinfo writes blanks and the backslash as three octal digits.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    bytes
}

/// An absolute path below another root directory.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether every component is an ordinary name.
pub(super) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.first() == Some(&b'/')
        && bytes
            .split(|byte| *byte == b'/')
            .all(|part| part != b".." && part != b".")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_local, is_plain, names, read_config, unescape};

    const MOUNTINFO: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 22 0:26 / /run rw shared:2 - tmpfs tmpfs rw\n\
        40 22 0:40 / /mnt/a\\040b rw - nfs4 server:/x rw\n\
        41 30 0:41 / /run/f rw shared:5 master:1 - fuse.sshfs x rw\n\
        42 22 0:42 / /over rw - nfs server:/y rw\n43 42 0:43 / /over rw - tmpfs t rw\n";

    #[test]
    fn local_is_told_from_the_mount_table() {
        for (path, local) in [
            ("/var/lib/x", true),
            ("/run/containerd/x", true),
            ("/mnt/a b/x", false),
            ("/mnt/a", true),
            ("/run/f/x", false),
            ("/run/ff", true),
            ("/over/x", true),
        ] {
            assert_eq!(is_local(Path::new(path), MOUNTINFO), local, "{path}");
        }
        assert!(!is_local(Path::new("/x"), b"broken"));
    }

    #[test]
    fn octal_escapes() {
        assert_eq!(unescape(b"a\\040b\\134c\\9\\04"), b"a b\\c\\9\\04");
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("config.json"), "{}").unwrap();
        std::os::unix::fs::symlink(at("config.json"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(read_config(&at("config.json")).unwrap().1, b"{}");
        // A link could lead anywhere; a FIFO would be waited on.
        assert!(read_config(&at("link")).is_none() && read_config(&at("fifo")).is_none());
        assert!(read_config(directory.path()).is_none() && read_config(&at("none")).is_none());
        assert_eq!(names(directory.path()), ["config.json", "fifo", "link"]);
        assert!(names(&at("none")).is_empty());
    }

    #[test]
    fn a_huge_file_is_read_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, vec![b' '; 5 << 20]).unwrap();
        assert_eq!(read_config(&path).unwrap().1.len(), 4 << 20);
    }

    #[test]
    fn plain_paths() {
        assert!(is_plain(Path::new("/a/b")) && !is_plain(Path::new("a")) && !is_plain(Path::new("/a/../b")));
    }
}
