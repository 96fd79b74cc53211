//! What all tasks have open, run and mapped: read once for a snapshot, for every kind of reference that starts at an
//! open file.

use std::collections::{BTreeMap, HashMap};

use super::{
    context::Kernel,
    file::{Descriptor, PathAddress},
    found::{Users, unique},
    mapping::MappedFile,
    task::Task,
};

/// The name of an anonymous inode's file at the most (`[eventpoll]`, `bpf-prog`).
const NAME_MAX: usize = 32;

/// All open, executed and mapped files, and who uses them.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Tasks (by index) that use a descriptor table.
    pub(super) tables: HashMap<u64, Vec<usize>>,
    /// Tasks that use an address space.
    pub(super) spaces: HashMap<u64, Vec<usize>>,
    /// All descriptors.
    pub(super) descriptors: Vec<Descriptor>,
    /// Address space and file of every executable.
    pub(super) executables: Vec<(u64, u64)>,
    /// All mappings.
    pub(super) mapped: Vec<MappedFile>,
    /// The path of every file that has a descriptor.
    pub(super) paths: HashMap<u64, PathAddress>,
    /// Files of file systems that the kernel keeps to itself (`sockfs`, `anon_inodefs`), by its name.
    special: BTreeMap<Vec<u8>, Vec<u64>>,
    /// The number of a file's descriptors that is the smallest, by file and table.
    by_file: HashMap<u64, Vec<(u64, u32)>>,
}

/// The tasks that use something, by its address.
pub(super) fn by<F: Fn(&Task) -> u64>(tasks: &[Task], key: F) -> HashMap<u64, Vec<usize>> {
    let mut users: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        if key(task) != 0 {
            users.entry(key(task)).or_default().push(index);
        }
    }
    users
}

/// The keys, sorted.
fn keys<V>(users: &HashMap<u64, V>) -> Vec<u64> {
    let mut keys: Vec<u64> = users.keys().copied().collect();
    keys.sort_unstable();
    keys
}

impl Census {
    /// Reads the tables and mappings of all tasks.
    pub(super) fn take(kernel: Kernel<'_>, tasks: &[Task], gaps: &mut Vec<String>) -> Self {
        let tables = by(tasks, |task| task.files);
        let descriptors = kernel
            .descriptors(&keys(&tables))
            .or_note(gaps, "a descriptor table changed under the walk");
        let spaces = by(tasks, |task| task.mm);
        let mms = keys(&spaces);
        let mapped = kernel
            .mapped_files(&mms)
            .or_note(gaps, "the mappings of a process changed under the walk");
        let executables = kernel.memory.words(&mms, kernel.layout.table.mm_exe_file);
        let executables = mms
            .into_iter()
            .zip(executables)
            .filter_map(|(mm, file)| Some((mm, file.filter(|file| *file != 0)?)))
            .collect();
        let open = unique(descriptors.iter().map(|descriptor| descriptor.file));
        let paths = kernel.path_addresses(&open, kernel.layout.table.file_path);
        let paths: HashMap<u64, PathAddress> = open
            .into_iter()
            .zip(paths)
            .filter_map(|(file, path)| Some((file, path?)))
            .collect();
        let mut census = Self {
            tables,
            spaces,
            descriptors,
            executables,
            mapped,
            paths,
            ..Self::default()
        };
        census.sort_special(kernel);
        census
    }

    /// Sockets and anonymous inodes are on mounts that the kernel made for itself: few, so that their types are read
    /// once for each.
    fn sort_special(&mut self, kernel: Kernel<'_>) {
        let mounts = unique(self.paths.values().map(|path| path.mount));
        let internal: HashMap<u64, Vec<u8>> = mounts
            .into_iter()
            .filter_map(|mount| Some((mount, kernel.file_system_name(mount)?)))
            .filter(|(_, name)| [&b"sockfs"[..], b"anon_inodefs"].contains(&name.as_slice()))
            .collect();
        for (file, path) in &self.paths {
            if let Some(name) = internal.get(&path.mount) {
                self.special.entry(name.clone()).or_default().push(*file);
            }
        }
        let special: std::collections::HashSet<u64> = self.special.values().flatten().copied().collect();
        for Descriptor { table, fd, file } in &self.descriptors {
            if special.contains(file) {
                self.by_file.entry(*file).or_default().push((*table, *fd));
            }
        }
        for files in self.special.values_mut() {
            files.sort_unstable();
        }
    }

    /// The `struct file` of every socket that has a descriptor.
    pub(super) fn sockets(&self) -> &[u64] {
        self.special.get(&b"sockfs"[..]).map_or(&[], Vec::as_slice)
    }

    /// The `struct file` of every anonymous inode of this name (`[io_uring]`, `[fanotify]`) that has a descriptor.
    pub(super) fn anonymous(&self, kernel: Kernel<'_>, name: &str) -> Vec<u64> {
        let files = self
            .special
            .get(&b"anon_inodefs"[..])
            .map_or(&[][..], Vec::as_slice);
        let dentries: Vec<u64> = files.iter().map(|file| self.paths[file].dentry).collect();
        let names = kernel.short_names(&dentries, NAME_MAX);
        files
            .iter()
            .zip(names)
            .filter(|(_, found)| found.as_deref() == Some(name.as_bytes()))
            .map(|(file, _)| *file)
            .collect()
    }

    /// The tasks that have a descriptor for a socket or an anonymous inode, with its number.
    pub(super) fn users(&self, file: u64) -> Users {
        let descriptors = self.by_file.get(&file).map_or(&[][..], Vec::as_slice);
        descriptors
            .iter()
            .flat_map(|(table, fd)| {
                let users = self.tables.get(table).map_or(&[][..], Vec::as_slice);
                users.iter().map(|index| (*index, Some(*fd)))
            })
            .collect()
    }
}

impl Kernel<'_> {
    /// Those of some files, whether they have a descriptor or not, that are anonymous inodes of this name.
    pub(super) fn anonymous_among(self, files: &[u64], name: &str) -> Vec<u64> {
        let paths = self.path_addresses(files, self.layout.table.file_path);
        let (files, paths): (Vec<u64>, Vec<PathAddress>) = files
            .iter()
            .zip(paths)
            .filter_map(|(file, path)| Some((*file, path?)))
            .unzip();
        let dentries: Vec<u64> = paths.iter().map(|path| path.dentry).collect();
        let names = self.short_names(&dentries, NAME_MAX);
        files
            .into_iter()
            .zip(paths.into_iter().zip(names))
            .filter(|(_, (_, found))| found.as_deref() == Some(name.as_bytes()))
            // Any file can have that name.
            .filter(|(_, (path, _))| self.file_system_name(path.mount).as_deref() == Some(b"anon_inodefs"))
            .map(|(file, _)| file)
            .collect()
    }

    /// The name of the file system type of a mount.
    pub(super) fn file_system_name(self, mount: u64) -> Option<Vec<u8>> {
        let t = &self.layout.table;
        let superblock = self.memory.word(mount, t.mount_sb)?;
        let kind = self.memory.word(superblock, t.sb_type)?;
        let name = self.memory.word(kind, t.fs_type_name)?;
        let batch = self.memory.read_batch(&[name], 0, 16);
        let bytes = batch.get(0)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(bytes[..end].to_vec())
    }

    /// The names of dentries, as far as they are no longer than `max`.
    pub(super) fn short_names(self, dentries: &[u64], max: usize) -> Vec<Option<Vec<u8>>> {
        let t = &self.layout.table;
        let lengths = self.memory.halves(dentries, t.dentry_name_len);
        let names: Vec<u64> = self
            .memory
            .words(dentries, t.dentry_name)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let batch = self.memory.read_batch(&names, 0, max);
        let cut = |(piece, length): (Option<&[u8]>, Option<u32>)| {
            let bytes = piece?.get(..length? as usize)?;
            Some(bytes.to_vec())
        };
        batch.iter().zip(lengths).map(cut).collect()
    }
}
