//! A small kernel in recorded memory, and the walks over it: whole, and with its memory damaged.

use proptest::prelude::*;
use tracer_common::{FIELDS, Layout};

use super::{
    Budget, Kernel, KernelLayout, Paths, PerCpu, RecordedMemory, Snapshot, mapping::MappedFile, mount::Mount,
    snapshot, ways::Ways,
};
use crate::model::{Kind, Through};

mod aio;
mod changing;
mod wild;

const BASE: u64 = 0xffff_8880_0000_0000;

/// Where the structures are; each has a page.
const fn at(page: u64) -> u64 {
    BASE + page * 0x1000
}

const HOST_ROOT: u64 = at(1);
const SLAVE_ROOT: u64 = at(2);
const OTHER_ROOT: u64 = at(3);
const TARGET: u64 = at(4);
const COPY: u64 = at(5);
const PRIVATE: u64 = at(6);
const SUPERBLOCK: u64 = at(10);
const ROOT_DENTRY: u64 = at(11);
const MOUNTPOINT: u64 = at(12);
const MOUNTPOINT_OBJECT: u64 = at(13);
const FILE_DENTRY: u64 = at(14);
const INIT: u64 = at(20);
const HOLDER: u64 = at(21);
const THREAD: u64 = at(22);
const FILE: u64 = at(30);
const PRIVATE_FILE: u64 = at(31);
const MM: u64 = at(40);

/// A layout with every field at an offset of its own, but for those that other kernels have.
pub(super) fn layout() -> KernelLayout {
    let mut table = Layout::absent();
    let other = [
        "mm_mmap",
        "vma_next",
        "mount_instance",
        "pcp_gets",
        "pcp_puts",
        "backing_user_path",
        "sb_subtype",
    ];
    for (index, field) in FIELDS.iter().enumerate() {
        if !other.contains(&field.name) {
            table.set(field.name, 0x400 + index as u32 * 16);
        }
    }
    // Within one structure of another: a node has 256 bytes, a path two words.
    (table.path_mnt, table.path_dentry) = (0, 8);
    (table.maple_r64_pivot, table.maple_r64_slot) = (8, 128);
    (table.maple_a64_pivot, table.maple_a64_slot) = (8, 80);
    KernelLayout {
        table,
        range_slots: 16,
        arange_slots: 10,
        maple_types: [1, 2, 3],
        children_counted: false,
        slaves_are_hlist: true,
        lookup_rcu: 0x100,
        event_type: None,
        event_types: [2, 3],
        unmounted: 0x800_0000,
        uring_bucket: 0,
        uring_account: 0,
        fields: Vec::new(),
    }
}

struct Machine {
    memory: RecordedMemory,
    layout: KernelLayout,
    per_cpu: PerCpu,
    ways: Ways,
}

impl Machine {
    fn set(&mut self, structure: u64, offset: u32, word: u64) {
        self.memory.write_word(structure + u64::from(offset), word);
    }

    fn kernel(&self) -> Kernel<'_> {
        Kernel {
            memory: &self.memory,
            layout: &self.layout,
            per_cpu: &self.per_cpu,
            ways: &self.ways,
        }
    }

    /// A ring of links at `offset` of structures, with its head somewhere.
    fn ring(&mut self, head: u64, links: &[u64]) {
        let mut all = vec![head];
        all.extend(links);
        for (index, link) in all.iter().enumerate() {
            self.memory.write_word(*link, all[(index + 1) % all.len()]);
        }
    }

    fn mount(&mut self, address: u64, parent: u64, id: u64, group: u64, master: u64, count: u64) {
        let t = self.layout.table;
        self.memory.write(address, &[0; 0x1000]);
        self.set(address, t.mount_parent, parent);
        self.set(
            address,
            t.mount_mountpoint,
            if parent == address {
                ROOT_DENTRY
            } else {
                MOUNTPOINT
            },
        );
        self.set(address, t.mount_root, ROOT_DENTRY);
        self.set(address, t.mount_sb, SUPERBLOCK);
        self.set(address, t.mount_id, id);
        self.set(address, t.mount_ns, at(50) + id);
        self.set(address, t.mount_group_id, group);
        self.set(address, t.mount_master, master);
        self.set(address, t.mount_mp, MOUNTPOINT_OBJECT);
        // The counter of the only CPU, whose offset is 0, lies behind the mount itself.
        self.set(address, t.mount_pcp, address + 0xf00 - u64::from(t.pcp_count));
        self.memory.write_word(address + 0xf00, count);
        self.ring(address + u64::from(t.mount_mounts), &[]);
        self.ring(address + u64::from(t.mount_share), &[]);
    }

    fn task(&mut self, task: u64, tgid: u64, tid: u64, files: u64, mm: u64) {
        let t = self.layout.table;
        self.memory.write(task, &[0; 0x1000]);
        self.set(task, t.task_tgid, tgid);
        self.set(task, t.task_pid, tid);
        self.set(task, t.task_start_boottime, tgid * 10);
        self.set(task, t.task_group_leader, if tid == tgid { task } else { HOLDER });
        self.set(task, t.task_files, files);
        self.set(task, t.task_mm, mm);
        self.memory.write(
            task + u64::from(t.task_comm),
            format!("task{tid}\0\0\0\0\0\0\0\0\0\0").as_bytes(),
        );
    }

    fn file(&mut self, file: u64, mount: u64) {
        let t = self.layout.table;
        self.memory.write(file, &[0; 0x1000]);
        self.set(file, t.file_path, mount + u64::from(t.mount_mnt));
        self.set(file, t.file_path + 8, FILE_DENTRY);
    }

    fn dentry(&mut self, dentry: u64, parent: u64, name: &str) {
        let t = self.layout.table;
        self.memory.write(dentry, &[0; 0x1000]);
        self.set(dentry, t.dentry_parent, parent);
        self.set(dentry, t.dentry_name_len, name.len() as u64);
        self.set(dentry, t.dentry_name, dentry + 0xe00);
        self.memory.write(dentry + 0xe00, name.as_bytes());
        self.set(dentry, t.dentry_hash_pprev, 1);
        self.set(dentry, t.dentry_sb, SUPERBLOCK);
    }

    /// A host with a slave namespace and one that receives nothing. A process has a file of the target open, whose
    /// second thread has its own table; another maps a file through the slave copy.
    fn new() -> Self {
        let per_cpu = PerCpu {
            offsets: vec![0],
            unknown: None,
        };
        let mut machine = Self {
            memory: RecordedMemory::default(),
            layout: layout(),
            per_cpu,
            ways: Ways::default(),
        };
        let t = machine.layout.table;
        for page in 10..60 {
            machine.memory.write(at(page), &[0; 0x1000]);
        }
        machine.mount(HOST_ROOT, HOST_ROOT, 1, 5, 0, 1);
        machine.mount(SLAVE_ROOT, SLAVE_ROOT, 2, 0, HOST_ROOT, 1);
        machine.mount(OTHER_ROOT, OTHER_ROOT, 3, 0, 0, 1);
        machine.mount(TARGET, HOST_ROOT, 4, 0, 0, 2);
        machine.mount(COPY, SLAVE_ROOT, 5, 0, 0, 2);
        machine.mount(PRIVATE, OTHER_ROOT, 6, 0, 0, 2);
        let (slave_list, slave) = (u64::from(t.mount_slave_list), u64::from(t.mount_slave));
        machine
            .memory
            .write_word(HOST_ROOT + slave_list, SLAVE_ROOT + slave);
        let link = u64::from(t.mount_mp_list);
        machine.set(MOUNTPOINT_OBJECT, t.mountpoint_list, PRIVATE + link);
        for (mount, next) in [(PRIVATE, COPY + link), (COPY, TARGET + link), (TARGET, 0)] {
            machine.memory.write_word(mount + link, next);
        }
        machine.set(SUPERBLOCK, t.sb_mounts, TARGET);
        for (mount, next) in [(TARGET, COPY), (COPY, PRIVATE), (PRIVATE, 0)] {
            machine.set(mount, t.mount_next_for_sb, next);
        }
        machine.dentry(ROOT_DENTRY, ROOT_DENTRY, "/");
        machine.dentry(MOUNTPOINT, ROOT_DENTRY, "data");
        machine.dentry(FILE_DENTRY, ROOT_DENTRY, "app.log");
        machine.file(FILE, TARGET);
        machine.file(PRIVATE_FILE, PRIVATE);
        machine.file(at(32), COPY);

        machine.task(INIT, 1, 1, 0, MM);
        machine.task(HOLDER, 40, 40, at(23), 0);
        machine.task(THREAD, 40, 41, at(24), 0);
        let tasks = u64::from(t.task_tasks);
        machine.ring(INIT + tasks, &[HOLDER + tasks]);
        let node = u64::from(t.task_thread_node);
        for (signal, threads) in [
            (at(25), vec![INIT + node]),
            (at(26), vec![HOLDER + node, THREAD + node]),
        ] {
            machine.ring(signal + u64::from(t.signal_thread_head), &threads);
        }
        machine.set(INIT, t.task_signal, at(25));
        machine.set(HOLDER, t.task_signal, at(26));
        machine.set(THREAD, t.task_signal, at(26));
        // The leader's table has the private file at 5, the thread's own one the file of the target at 70.
        for (files, fd, file) in [(at(23), 5, PRIVATE_FILE), (at(24), 70, FILE)] {
            let (table, array, bitmap) = (files + 0x800, files + 0x900, files + 0xf80);
            machine.set(files, t.files_fdt, table - 0x400);
            machine.set(table - 0x400, t.fdt_max_fds, 128);
            machine.set(table - 0x400, t.fdt_fd, array - 0x300);
            machine.set(table - 0x400, t.fdt_open_fds, bitmap);
            machine.memory.write_word(bitmap + fd / 64 * 8, 1 << (fd % 64));
            machine.memory.write_word(array - 0x300 + fd * 8, file);
        }
        machine.mappings();
        machine
    }

    /// An inner node with a leaf; the leaf has one mapping, an empty slot, and a stale one behind its end.
    fn mappings(&mut self) {
        let t = self.layout.table;
        let (inner, leaf, mapping) = (at(41), at(42), at(43));
        self.set(MM, t.mm_ma_root, inner | 2 << 3 | 2);
        self.memory.write_word(inner + 8, u64::MAX);
        self.memory.write_word(inner + 128, leaf | 1 << 3 | 4);
        self.memory.write_word(leaf + 8, 0x1000);
        self.memory.write_word(leaf + 16, u64::MAX);
        self.memory.write_word(leaf + 128, mapping);
        self.memory.write_word(leaf + 128 + 16, at(44));
        for vma in [mapping, at(44)] {
            self.set(vma, t.vma_mm, MM);
            self.set(vma, t.vma_file, at(32));
        }
    }

    fn target(&self) -> Mount {
        self.kernel().mount(TARGET).unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        snapshot(self.kernel(), &self.target(), INIT, &[], || 0)
    }
}

#[test]
fn slots_are_below_the_receivers_of_the_parent_only() {
    let machine = Machine::new();
    let slots = machine.kernel().slots(&machine.target());
    let addresses: Vec<u64> = slots.mounts.iter().map(|mount| mount.address).collect();
    assert_eq!((addresses, slots.complete), (vec![COPY], true));
}

/// Mounts that were read at different moments point at each other; so may the memory of a damaged kernel.
#[test]
fn a_path_over_mounts_that_point_at_each_other_ends() {
    let mut machine = Machine::new();
    let whole = Paths::new(machine.kernel()).seen_from(TARGET, FILE_DENTRY, None);
    assert!(whole.is_some());
    let torn = |mount: u64, parent: u64| Mount {
        parent,
        mountpoint: ROOT_DENTRY,
        ..machine.kernel().mount(mount).unwrap()
    };
    let rings = [
        vec![torn(TARGET, COPY), torn(COPY, TARGET)],
        vec![torn(TARGET, COPY), torn(COPY, PRIVATE), torn(PRIVATE, TARGET)],
    ];
    for ring in &rings {
        let mut paths = Paths::new(machine.kernel());
        paths.add_mounts(ring);
        assert_eq!(paths.seen_from(TARGET, FILE_DENTRY, None), whole);
    }
    let t = machine.layout.table;
    for (mount, parent) in [(TARGET, COPY), (COPY, TARGET)] {
        machine.set(mount, t.mount_parent, parent);
        machine.set(mount, t.mount_mountpoint, ROOT_DENTRY);
    }
    assert_eq!(
        Paths::new(machine.kernel()).seen_from(TARGET, FILE_DENTRY, None),
        None
    );
}

/// Who makes directories in directories decides how long paths are: each is read once, and none is longer than a path
/// can be.
#[test]
fn many_files_below_thousands_of_directories_cost_little() {
    let mut machine = Machine::new();
    let (below, name) = (at(1000), "n".repeat(255));
    let t = machine.layout.table;
    let mut entry = |address: u64, parent: u64| {
        for (offset, word) in [
            (t.dentry_parent, parent),
            (t.dentry_name_len, name.len() as u64),
            (t.dentry_name, at(999)),
            (t.dentry_hash_pprev, 1),
        ] {
            machine.set(address, offset, word);
        }
        for offset in (0..0x1000).step_by(8) {
            if machine.kernel().memory.word(address, offset).is_none() {
                machine.set(address, offset, 0);
            }
        }
    };
    for depth in 0..300 {
        let parent = if depth == 0 {
            ROOT_DENTRY
        } else {
            below + (depth - 1) * 0x1000
        };
        entry(below + depth * 0x1000, parent);
    }
    for file in 0..900 {
        entry(below + (300 + file) * 0x1000, below + 299 * 0x1000);
    }
    machine.memory.write(at(999), name.as_bytes());
    machine.memory.budget = Budget::of(60_000);
    let mut paths = Paths::new(machine.kernel());
    let files: Vec<u64> = (0..900).map(|file| below + (300 + file) * 0x1000).collect();
    paths.load(&files);
    for file in files {
        let (inside, deleted) = paths.in_mount(ROOT_DENTRY, file).unwrap();
        let seen = paths.seen_from(TARGET, file, None).unwrap();
        assert_eq!((inside.clone().whole(), deleted), (None, false));
        let shown = inside.shown();
        assert!(shown.len() <= 4096 && shown.starts_with(b".../n"));
        assert_eq!(seen.shown(), shown);
    }
    assert!(!machine.memory.budget.is_spent());
}

#[test]
fn all_threads_are_found_leaders_first() {
    let machine = Machine::new();
    let tasks = machine.kernel().tasks(HOLDER);
    let ids: Vec<(u32, u32)> = tasks.all.iter().map(|task| (task.tgid, task.tid)).collect();
    assert_eq!((ids, tasks.complete), (vec![(1, 1), (40, 40), (40, 41)], true));
}

#[test]
fn a_mapping_behind_the_end_of_its_node_is_none() {
    let mut machine = Machine::new();
    let t = machine.layout.table;
    // The stale one has another file: it would show.
    machine.set(at(44), t.vma_file, FILE);
    let mapped = machine.kernel().mapped_files(&[MM]);
    assert_eq!(
        (mapped.items, mapped.complete),
        (vec![MappedFile { mm: MM, file: at(32) }], true)
    );
}

#[test]
fn a_snapshot_names_who_holds_through_what() {
    let found = Machine::new().snapshot();
    assert_eq!(found.gaps, Vec::<String>::new());
    assert_eq!(
        (found.target.counts, found.slots[0].counts),
        ([Some(2); 2], [Some(2); 2])
    );
    let named: Vec<_> = found
        .references
        .iter()
        .map(|reference| {
            let holder = &reference.holder;
            let process = holder.process.as_ref().unwrap();
            (
                holder.through,
                holder.kind,
                process.pid,
                process.tid,
                holder.fd,
                holder.path.to_str_lossy().into_owned(),
            )
        })
        .collect();
    let path = || "/app.log".to_owned();
    assert_eq!(
        named,
        [
            (Through::Target, Kind::Fd, 40, Some(41), Some(70), path()),
            (Through::PropagatedCopy, Kind::Mmap, 1, Some(1), None, path()),
            (Through::PrivateCopy, Kind::Fd, 40, Some(40), Some(5), path()),
        ]
    );
    assert_eq!(
        found.references[0]
            .holder
            .seen_as
            .as_ref()
            .unwrap()
            .to_str_lossy(),
        "/data/app.log"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Whatever is in memory, the walk ends, and names nobody who is not there.
    #[test]
    fn damaged_memory_does_no_harm(damage in prop::collection::vec((0u64..60 * 512, any::<prop::sample::Index>()), 1..40)) {
        let mut machine = Machine::new();
        let target = machine.target();
        for (word, value) in damage {
            // Other addresses of this memory are the worst: they can be followed.
            machine.memory.write_word(BASE + word * 8, BASE + value.index(60 * 512) as u64 * 8);
        }
        let found = snapshot(machine.kernel(), &target, INIT, &[], || 0);
        for reference in &found.references {
            prop_assert!(reference.holder.refs < 1000);
        }
    }
}
