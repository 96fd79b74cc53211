//! Writes the archive that a kernel unpacks as its first root: the "newc" format of cpio.
//!
//! <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>

use std::collections::BTreeSet;

/// An archive in memory. Directories above a path are added by themselves.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// A directory that everybody may read.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parent(path);
        self.entry(&Entry {
            path,
            mode: 0o040_755,
            links: 2,
            device: (0, 0),
            data: &[],
        });
    }

    /// A regular file with these permissions.
    ///
    /// # Panics
    /// At 4 GiB, which the format cannot express.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        let path = path.trim_start_matches('/');
        self.parent(path);
        self.entry(&Entry {
            path,
            mode: 0o100_000 | permissions,
            links: 1,
            device: (0, 0),
            data,
        });
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        let path = path.trim_start_matches('/');
        self.parent(path);
        self.entry(&Entry {
            path,
            mode: 0o120_777,
            links: 1,
            device: (0, 0),
            data: target.as_bytes(),
        });
    }

    /// A character device: without `/dev/console` the first process has no output.
    pub(crate) fn character_device(&mut self, path: &str, permissions: u32, device: (u32, u32)) {
        let path = path.trim_start_matches('/');
        self.parent(path);
        self.entry(&Entry {
            path,
            mode: 0o020_000 | permissions,
            links: 1,
            device,
            data: &[],
        });
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(&Entry {
            path: "TRAILER!!!",
            mode: 0,
            links: 1,
            device: (0, 0),
            data: &[],
        });
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        let size = u32::try_from(entry.data.len()).expect("a file of an initramfs is below 4 GiB");
        let name_size = u32::try_from(entry.path.len() + 1).expect("a path of an initramfs is short");
        let fields = [
            self.inode,
            entry.mode,
            0, // user
            0, // group
            entry.links,
            0, // time
            size,
            0, // device of the archive
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0, // no checksum in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(entry.data);
        self.align();
        self.inode += 1;
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode and data of each entry, by the format's own description.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name_at = at + 110;
            assert_eq!(bytes[name_at + name_size - 1], 0);
            let name = String::from_utf8(bytes[name_at..name_at + name_size - 1].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return entries;
            }
            let data_at = (name_at + name_size).next_multiple_of(4);
            entries.push((name, mode, bytes[data_at..data_at + size].to_vec()));
            at = (data_at + size).next_multiple_of(4);
        }
    }

    #[test]
    fn entries_read_back() {
        let mut archive = Archive::default();
        archive.file("/opt/a/program", 0o755, b"12345");
        archive.file("opt/b", 0o644, b"");
        archive.symlink("/etc/mtab", "/proc/mounts");
        archive.character_device("/dev/console", 0o600, (5, 1));
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let entries = read(&bytes);
        let expected = [
            ("opt", 0o040_755, ""),
            ("opt/a", 0o040_755, ""),
            ("opt/a/program", 0o100_755, "12345"),
            ("opt/b", 0o100_644, ""),
            ("etc", 0o040_755, ""),
            ("etc/mtab", 0o120_777, "/proc/mounts"),
            ("dev", 0o040_755, ""),
            ("dev/console", 0o020_600, ""),
        ];
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, mode, data)| (name.as_str(), *mode, std::str::from_utf8(data).unwrap()))
            .collect();
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_parent_comes_before_its_children_once() {
        let mut archive = Archive::default();
        archive.directory("a/b/c/");
        archive.directory("/a/b");
        let names: Vec<_> = read(&archive.finish()).into_iter().map(|entry| entry.0).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
    }
}
