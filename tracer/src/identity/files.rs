//! Small parts of reading files.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Stat, StatxFlags, statx};

/// Longest text of /proc that is read.
const PROC_CAP: u64 = 64 * 1024;

/// Identifies the version of a file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
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

/// `mnt_id` of the mount that a file is on; `None` before Linux 5.8.
pub(crate) fn mount_id(of: impl AsFd) -> io::Result<Option<u32>> {
    let found = statx(of, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(u32::try_from(found.stx_mnt_id).ok().filter(|_| known))
}

/// Reads a file of /proc.
pub(super) fn read_proc(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(PROC_CAP).read_to_end(&mut text)?;
    Ok(text)
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

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn octal_escapes() {
        assert_eq!(unescape(b"a\\040b\\134c\\9\\04"), b"a b\\c\\9\\04");
    }
}
