//! The walk over everything that can hold a mount. Here: directories, descriptors, executables, mappings; the
//! other kinds have files of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    census::Census,
    context::Kernel,
    file::{Descriptor, PathAddress},
    found::{Carried, Found, Request, split, unique},
    listing::note,
    second_look::{SecondLook, still_used},
    subject::Subject,
    task::Task,
};
use crate::model::Kind;

/// The gap where the budget of a look was not enough.
pub(super) const CUT_SHORT: &str = "the look was cut short: the host has more than one look may read";

/// Sharers that are told of all references of a look; beyond them each has few. Who shares many files among many
/// processes decides how many there are.
const SHARERS_MAX: usize = 1 << 18;
const FEW: usize = 64;

/// How many more sharers may be told.
struct Room(usize);

impl Room {
    fn fit(&mut self, found: &mut Found, gaps: &mut Vec<String>) {
        let room = self.0.max(FEW);
        let all = found.sharers.len() <= room;
        note(
            gaps,
            all,
            "who shares what: there are more sharers than one look tells",
        );
        found.sharers.truncate(room);
        found.sharers.shrink_to_fit();
        self.0 = self.0.saturating_sub(found.sharers.len());
    }
}

/// How an open file is used.
#[derive(Debug, Default)]
struct Uses<'c> {
    descriptors: Vec<(u64, u32)>,
    executed_by: BTreeSet<u64>,
    mapped_by: BTreeSet<u64>,
    carried: Vec<&'c Carried>,
}

/// A walk under way.
pub(super) struct Walk<'k, 'g> {
    pub(super) kernel: Kernel<'k>,
    /// Addresses of the mounts that references are looked for on.
    pub(super) interest: HashSet<u64>,
    pub(super) subject: Subject<'g>,
    pub(super) gaps: &'g mut Vec<String>,
    /// All threads.
    pub(super) tasks: &'g [Task],
    pub(super) census: Census,
    /// Files that something in the kernel keeps: those on mounts of interest become references in [`Walk::files`].
    pub(super) carried: Vec<Carried>,
    pub(super) found: Vec<Found>,
    sharers: Room,
}

impl<'k, 'g> Walk<'k, 'g> {
    /// A walk that looks for references on these mounts.
    pub(super) fn new(
        kernel: Kernel<'k>,
        interest: HashSet<u64>,
        subject: Subject<'g>,
        tasks: &'g [Task],
        gaps: &'g mut Vec<String>,
    ) -> Self {
        let census = Census::take(kernel, tasks, gaps);
        Self {
            kernel,
            interest,
            subject,
            gaps,
            tasks,
            census,
            carried: Vec::new(),
            found: Vec::new(),
            sharers: Room(SHARERS_MAX),
        }
    }

    /// Adds a reference, with as many of its sharers as there is room for.
    pub(super) fn add(&mut self, mut found: Found) {
        self.sharers.fit(&mut found, self.gaps);
        self.found.push(found);
    }

    /// Working and root directories: one reference each, whatever threads share them.
    pub(super) fn directories(&mut self) {
        let tasks = self.tasks;
        let t = &self.kernel.layout.table;
        let addresses = unique(tasks.iter().map(|task| task.fs).filter(|fs| *fs != 0));
        let mut found = Vec::new();
        for (kind, offset) in [(Kind::Cwd, t.fs_pwd), (Kind::Root, t.fs_root)] {
            let paths = self.kernel.path_addresses(&addresses, offset);
            let paths = addresses.iter().zip(paths);
            found.extend(paths.filter_map(|(address, path)| Some((kind, *address, path?))));
        }
        found.retain(|(.., path)| self.interest.contains(&path.mount));
        let used = found.iter().map(|(_, address, _)| *address).collect();
        let users = still_used(self.kernel, tasks, t.task_fs, |task| task.fs, &used);
        for (kind, address, path) in found {
            let Some(users) = users.get(&address) else {
                continue;
            };
            let users = users.iter().map(|index| (*index, None));
            let found = Found::new(kind, address, path).used_by(tasks, users);
            self.add(found);
        }
    }

    /// Open, executed, mapped and carried files: one reference each, however many ways they are used in.
    pub(super) fn files(&mut self) {
        let (kernel, tasks, census) = (self.kernel, self.tasks, &self.census);
        let carried = unique(self.carried.iter().map(|carried| carried.file));
        let run = unique(census.executables.iter().map(|(_, file)| *file));
        let maps = unique(census.mapped.iter().map(|mapped| mapped.file));
        let mut paths: HashMap<u64, PathAddress> = census
            .paths
            .iter()
            .filter(|(_, path)| self.interest.contains(&path.mount))
            .map(|(file, path)| (*file, *path))
            .collect();
        paths.extend(kernel.files_on(&run, &self.interest, false));
        paths.extend(kernel.files_on(&carried, &self.interest, false));
        let opened: Vec<u64> = paths.keys().copied().collect();
        paths.extend(kernel.files_on(&maps, &self.interest, true));

        let look = SecondLook::take(kernel, tasks, census, &self.carried, &paths);
        let mut uses: BTreeMap<u64, Uses> = BTreeMap::new();
        for Descriptor { table, fd, file } in &look.descriptors {
            uses.entry(*file).or_default().descriptors.push((*table, *fd));
        }
        for (mm, file) in &look.executables {
            uses.entry(*file).or_default().executed_by.insert(*mm);
        }
        for mapping in &look.mapped {
            uses.entry(mapping.file).or_default().mapped_by.insert(mapping.mm);
        }
        for carried in &self.carried {
            let is_there =
                |request: &Request| look.asked.contains(request) && look.spaces.contains_key(&request.space);
            if paths.contains_key(&carried.file) && carried.request.as_ref().is_none_or(is_there) {
                uses.entry(carried.file).or_default().carried.push(carried);
            }
        }
        // The backing file of an overlay belongs to the file that it backs.
        let mut extra: HashMap<u64, u64> = HashMap::new();
        for file in opened {
            for backing in kernel.backing_files(file, paths[&file]) {
                *extra.entry(file).or_default() += 1;
                if let Some(behind) = uses.remove(&backing) {
                    uses.entry(file).or_default().mapped_by.extend(behind.mapped_by);
                }
            }
        }
        for (file, uses) in uses {
            let refs = 1 + extra.get(&file).copied().unwrap_or(0);
            let mut found = found_file(file, paths[&file], refs, &uses, tasks, &look);
            self.sharers.fit(&mut found, self.gaps);
            self.found.push(found);
        }
    }
}

fn found_file(
    file: u64,
    path: PathAddress,
    refs: u64,
    uses: &Uses<'_>,
    tasks: &[Task],
    look: &SecondLook,
) -> Found {
    let (tables, spaces) = (&look.tables, &look.spaces);
    let mut descriptors = uses.descriptors.clone();
    descriptors.sort_by_key(|(_, fd)| *fd);
    let no_users = Vec::new();
    let by_table = descriptors.iter().flat_map(|(table, fd)| {
        tables
            .get(table)
            .unwrap_or(&no_users)
            .iter()
            .map(|index| (*index, Some(*fd)))
    });
    let by_space = uses.executed_by.iter().chain(&uses.mapped_by).flat_map(|space| {
        spaces
            .get(space)
            .unwrap_or(&no_users)
            .iter()
            .map(|index| (*index, None))
    });
    let by_carrier = uses.carried.iter().flat_map(|carried| {
        // A descriptor of the carrier is none of the file.
        let plain = uses.descriptors.is_empty();
        let space = carried.request.and_then(|asked| spaces.get(&asked.space));
        carried
            .users
            .iter()
            .filter(move |(index, _)| space.is_none_or(|users| users.contains(index)))
            .map(move |(index, fd)| (*index, fd.filter(|_| plain)))
    });
    let (owner, sharers) = split(tasks, by_table.chain(by_space).chain(by_carrier));
    let mut kinds = Vec::new();
    if !uses.descriptors.is_empty() {
        kinds.push(Kind::Fd);
    }
    if !uses.executed_by.is_empty() {
        kinds.push(Kind::Exe);
    }
    if !uses.mapped_by.is_empty() {
        kinds.push(Kind::Mmap);
    }
    for carried in &uses.carried {
        if !kinds.contains(&carried.kind) {
            kinds.push(carried.kind);
        }
    }
    let also = kinds.split_off(1.min(kinds.len()));
    let own_table = owner.map(|index| tasks[index].files);
    let fd = descriptors
        .iter()
        .find(|(table, _)| Some(*table) == own_table)
        .map(|(_, fd)| *fd)
        .or_else(|| {
            let mut users = uses.carried.iter().flat_map(|carried| carried.users.iter());
            users
                .find(|(index, _)| Some(*index) == owner)?
                .1
                .filter(|_| uses.descriptors.is_empty())
        });
    let held_by = uses.carried.iter().find_map(|carried| carried.held_by.clone());
    let kind = kinds.first().copied().unwrap_or(Kind::Mmap);
    Found {
        also,
        refs,
        owner,
        fd,
        sharers,
        held_by,
        ..Found::new(kind, file, path)
    }
}

#[cfg(test)]
mod tests {
    use super::{FEW, Found, Kind, PathAddress, Room, SHARERS_MAX};

    #[test]
    fn many_files_shared_by_many_processes_are_told_with_a_few() {
        let (mut room, mut gaps, mut told) = (Room(SHARERS_MAX), Vec::new(), 0);
        let many = SHARERS_MAX / 10;
        for file in 0..100 {
            let mut found = Found::new(Kind::Fd, file, PathAddress::default());
            found.sharers = (0..many).map(|task| (task, None)).collect();
            room.fit(&mut found, &mut gaps);
            assert!(found.sharers.len() >= FEW);
            told += found.sharers.len();
            assert_eq!(gaps.is_empty(), told <= SHARERS_MAX && file < 10, "{file}");
        }
        assert!(told <= SHARERS_MAX + 100 * FEW && gaps.len() == 1, "{told}");
    }
}
