//! Memory in which every pointer may lead anywhere: each walk ends, within a budget of reads and of steps.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use tracer_common::{ABSENT, CHASE_MAX, UmountCall};

use super::layout;
use crate::kernel::{
    Batch, Budget, Kernel, KernelLayout, KernelMemory, LedgerFile, Links, Mount, Paths, PerCpu, Task,
    process::ProcessFacts, snapshot, survey, user_memory::UserMemory, ways::Ways,
};

/// What a look may cost here.
const BUDGET: u64 = 4_000;
/// A structure has so many bytes.
const SIZE: u64 = 0x2000;
const BASE: u64 = 0xffff_8880_0000_0000;
/// Where walks begin.
const START: u64 = BASE + 64 * SIZE;
/// A walk that takes longer stands: each takes less than a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where pointers lead.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// In circles of so many; one is itself.
    Circle(u64),
    /// On and on.
    Chain(u64),
    /// To one of so many, the same each time.
    Tangle(u64),
    /// To one of so many, another one each time.
    Changing(u64),
}

/// What is there.
#[derive(Debug, Clone, Copy)]
struct Nature {
    shape: Shape,
    /// A pointer leads to where it is itself within a structure, as links do; else to its beginning.
    linked: bool,
    /// Some words are numbers, tagged pointers, or null.
    mixed: bool,
}

struct Wild {
    nature: Nature,
    budget: Budget,
    reads: Cell<u64>,
}

/// Numbers that look random (`SplitMix64`).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Wild {
    fn word(&self, address: u64) -> u64 {
        let Nature { shape, linked, mixed } = self.nature;
        let seed = match shape {
            Shape::Changing(_) => mix(address ^ mix(self.reads.get())),
            _ => mix(address),
        };
        let index = address.wrapping_sub(BASE) / SIZE;
        let index = match shape {
            Shape::Circle(of) => index / of * of + (index + 1) % of,
            Shape::Chain(of) if index > of => return 0,
            Shape::Chain(_) => index + 1,
            Shape::Tangle(of) | Shape::Changing(of) => seed % of,
        };
        let within = if linked { (address % SIZE) & !7 } else { 0 };
        let pointer = BASE.wrapping_add(index.wrapping_mul(SIZE)).wrapping_add(within);
        match mix(seed) % 16 {
            0 if mixed => 0,
            1 if mixed => seed % 600,
            // A node of a maple tree, of any type.
            2..6 if mixed => pointer & !255 | (seed >> 8 & 3) << 3 | 2,
            _ => pointer,
        }
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        self.reads.set(self.reads.get() + len.div_ceil(64) as u64);
        let seed = mix(address ^ 7);
        match len {
            1 => vec![[1, 10][seed as usize % 2]],
            2 => vec![1, 0],
            4 => {
                let number = match seed % 16 {
                    0 => u32::MAX,
                    1 => 1 << 20,
                    _ => (seed >> 8) as u32 % 300,
                };
                number.to_le_bytes().to_vec()
            }
            _ => {
                let words = (0..len.div_ceil(8) as u64).map(|word| self.word(address.wrapping_add(word * 8)));
                let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
                bytes.truncate(len);
                bytes
            }
        }
    }
}

impl KernelMemory for Wild {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        let mut batch = Batch::new(len, addresses.len());
        for address in addresses {
            let readable = *address >= BASE && offset != ABSENT;
            let bytes = readable.then(|| self.bytes(address.wrapping_add(u64::from(offset)), len));
            batch.push(bytes.as_deref());
        }
        batch
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        Links::follow(first, stop, most, |node| {
            self.read(&[node], offset, 8).words().next().flatten()
        })
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// A walk from somewhere.
type Run = fn(Kernel<'_>);

fn some_mount(kernel: Kernel<'_>) -> Mount {
    let address = START;
    kernel.mount(address).unwrap_or_else(|| Mount {
        address,
        parent: address + SIZE,
        namespace: START,
        group: 1,
        first_child: address + SIZE,
        ..Mount::default()
    })
}

fn some_tasks() -> Vec<Task> {
    let task = |index: u64| Task {
        address: START + index * SIZE,
        tid: index as u32 + 1,
        tgid: index as u32 + 1,
        start: index,
        fs: START + index * SIZE,
        files: START + index * SIZE,
        mm: if index.is_multiple_of(2) {
            START + index * SIZE
        } else {
            0
        },
        nsproxy: START + index * SIZE,
    };
    (0..40).map(task).collect()
}

const ADDRESSES: [u64; 3] = [START, START + SIZE, START + 2 * SIZE];

fn interest() -> HashSet<u64> {
    (0..200).map(|index| BASE + index * SIZE).collect()
}

fn paths(kernel: Kernel<'_>, walk: impl Fn(&mut Paths<'_>, u64)) {
    let mut all = Paths::new(kernel);
    for index in 0..100 {
        walk(&mut all, START + index * SIZE);
    }
}

/// Every public walk: what is not here is missed by `no_walk_is_forgotten`.
const WALKS: &[(&str, Run)] = &[
    ("snapshot", |kernel| {
        let ledger: Vec<LedgerFile> = (0..50)
            .map(|index| LedgerFile {
                file: START + index * SIZE,
                mount: START,
                mount_id: 1,
                tgid: 1,
                start: 1,
                backing: false,
            })
            .collect();
        drop(snapshot(kernel, &some_mount(kernel), START, &ledger, || 0));
    }),
    ("survey", |kernel| {
        let roles = interest()
            .into_iter()
            .map(|mount| (mount, crate::model::Through::Target));
        let roles: HashMap<_, _> = roles.collect();
        drop(survey(kernel, &some_tasks(), &roles, &interest()));
    }),
    ("counts", |kernel| drop(kernel.counts(&[&some_mount(kernel)]))),
    ("busy_references", |kernel| {
        let _ = kernel.busy_references(&some_mount(kernel));
    }),
    ("new", |kernel| drop(Paths::new(kernel))),
    ("add_mounts", |kernel| {
        // Mounts that were read at another moment than the rest.
        let mut all = Paths::new(kernel);
        all.add_mounts(&[some_mount(kernel)]);
        let _ = all.seen_from(START, START, None);
    }),
    ("load", |kernel| {
        paths(kernel, |paths, at| paths.load(&[at, at + SIZE]));
    }),
    ("mount", |kernel| {
        paths(kernel, |paths, at| {
            let _ = paths.mount(at);
        });
        drop(kernel.mount(START));
    }),
    ("fixed_ways", |kernel| {
        let _ = kernel.fixed_ways(None);
    }),
    ("in_mount", |kernel| {
        paths(kernel, |paths, at| drop(paths.in_mount(START, at)));
    }),
    ("in_superblock", |kernel| {
        paths(kernel, |paths, at| drop(paths.in_superblock(at)));
    }),
    ("seen_from", |kernel| {
        paths(kernel, |paths, at| drop(paths.seen_from(START, at, None)));
        paths(kernel, |paths, at| {
            drop(paths.seen_from(at, at, Some((START, at))));
        });
    }),
    ("of_type", |kernel| drop(kernel.of_type(&ADDRESSES, "overlay"))),
    ("all_mounts", |kernel| drop(kernel.all_mounts(&interest()))),
    ("place", |kernel| {
        let _ = kernel.place(&some_mount(kernel));
    }),
    ("namespace_roots", |kernel| {
        drop(kernel.namespace_roots(&ADDRESSES));
    }),
    ("namespaces_of_dentries", |kernel| {
        drop(kernel.namespaces_of_dentries(&ADDRESSES));
    }),
    ("tmpfs_used", |kernel| {
        let _ = kernel.tmpfs_used(START);
    }),
    ("path_addresses", |kernel| {
        drop(kernel.path_addresses(&ADDRESSES, 0));
    }),
    ("descriptors", |kernel| drop(kernel.descriptors(&ADDRESSES))),
    ("files_on", |kernel| {
        drop(kernel.files_on(&ADDRESSES, &interest(), true));
    }),
    ("backing_files", |kernel| {
        let path = kernel
            .path_addresses(&[START], 0)
            .pop()
            .flatten()
            .unwrap_or_default();
        drop(kernel.backing_files(START, path));
    }),
    ("is_open_for_writing", |kernel| {
        let _ = kernel.is_open_for_writing(START);
    }),
    ("file_flags", |kernel| {
        let _ = kernel.file_flags(START);
    }),
    ("mapped_files", |kernel| drop(kernel.mapped_files(&ADDRESSES))),
    ("mounts", |kernel| drop(kernel.mounts(&ADDRESSES))),
    ("children", |kernel| drop(kernel.children(&some_mount(kernel)))),
    ("mount_tree", |kernel| drop(kernel.mount_tree(START))),
    ("mount_tree_of", |kernel| drop(kernel.mount_tree_of(START, 64))),
    ("account", |kernel| {
        let _ = kernel.account(START);
    }),
    ("mounts_of_superblock", |kernel| {
        drop(kernel.mounts_of_superblock(START));
    }),
    ("device_name", |kernel| {
        drop(kernel.device_name(&some_mount(kernel)));
    }),
    ("superblock", |kernel| drop(kernel.superblock(START))),
    ("namespace_numbers", |kernel| {
        drop(kernel.namespace_numbers(&ADDRESSES));
    }),
    ("namespace_owners", |kernel| {
        drop(kernel.namespace_owners(&ADDRESSES));
    }),
    ("process", |kernel| drop(kernel.process(1))),
    ("is_process", |kernel| {
        let _ = kernel.is_process(&some_process());
    }),
    ("finds_processes", |kernel| {
        let _ = kernel.finds_processes();
    }),
    ("numbers_are_those_of_proc", |kernel| {
        let _ = kernel.numbers_are_those_of_proc();
    }),
    ("ancestors", |kernel| drop(kernel.ancestors(&some_process()))),
    ("command_line", |kernel| {
        drop(kernel.command_line(UserMemory::at(BASE), START, 1 << 20));
    }),
    ("still_open", |kernel| drop(kernel.still_open(&[]))),
    ("propagation_set", |kernel| {
        drop(kernel.propagation_set(&some_mount(kernel)));
    }),
    ("slots", |kernel| drop(kernel.slots(&some_mount(kernel)))),
    ("superblocks", |kernel| drop(kernel.superblocks("overlay"))),
    ("overlay_directories", |kernel| {
        let _ = kernel.overlay_directories(START);
    }),
    ("superblock_at", |kernel| {
        let _ = kernel.superblock_at(START);
    }),
    ("cached_name", |kernel| {
        let _ = kernel.cached_name(START, b"name");
    }),
    ("superblock_device", |kernel| {
        let _ = kernel.superblock_device(START);
    }),
    ("device_owner", |kernel| {
        let _ = kernel.device_owner(1);
    }),
    ("files_of_device", |kernel| {
        drop(kernel.files_of_device(&ADDRESSES, 1));
    }),
    ("system_call", |kernel| {
        let _ = kernel.system_call(START, 1, 1);
    }),
    ("umount_under_way", |kernel| {
        let call = UmountCall {
            task: START,
            ..UmountCall::BLANK
        };
        drop(kernel.umount_under_way(1, &call));
    }),
    ("tasks", |kernel| drop(kernel.tasks(START))),
    ("is_task", |kernel| {
        let _ = kernel.is_task(&some_tasks()[0]);
    }),
    ("comms", |kernel| drop(kernel.comms(&ADDRESSES))),
    ("mount_namespaces", |kernel| {
        drop(kernel.mount_namespaces(&some_tasks()));
    }),
];

fn some_process() -> ProcessFacts {
    ProcessFacts {
        task: START,
        pid: 1,
        comm: Vec::new(),
        start: 0,
        uid: None,
        mount_namespace: None,
        pid_namespace: None,
    }
}

/// The layouts of two kernels: lists that others have as trees, rings that others have as chains.
fn layouts() -> [KernelLayout; 2] {
    let new = KernelLayout {
        uring_bucket: 16,
        uring_account: 64,
        ..layout()
    };
    let mut old = new.clone();
    let t = &mut old.table;
    (t.mm_mmap, t.vma_next) = (t.mm_ma_root, 0x1c00);
    (t.mount_instance, t.net_list) = (t.mount_next_for_sb, 0x1c10);
    for absent in [
        &mut t.mm_ma_root,
        &mut t.mount_next_for_sb,
        &mut t.net_unix_buckets,
        &mut t.uring_nodes,
        &mut t.fs_type_next,
    ] {
        *absent = ABSENT;
    }
    old.slaves_are_hlist = false;
    old.children_counted = true;
    [new, old]
}

fn natures() -> Vec<Nature> {
    let shapes = [
        Shape::Circle(1),
        Shape::Circle(2),
        Shape::Circle(3),
        Shape::Chain(1_000_000),
        Shape::Tangle(64),
        Shape::Tangle(1 << 24),
        Shape::Changing(64),
        Shape::Changing(1 << 24),
    ];
    let all = shapes.into_iter().flat_map(|shape| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(linked, mixed)| Nature {
            shape,
            linked,
            mixed,
        })
    });
    all.collect()
}

/// Whatever memory looks like, every walk ends, and reads no more than it may.
#[test]
fn every_walk_ends_within_its_budget() {
    for (name, run) in WALKS {
        let (done, finished) = channel();
        // A walk that does not end is not to be waited for.
        thread::spawn(move || {
            for layout in layouts() {
                for nature in natures() {
                    let memory = Wild {
                        nature,
                        budget: Budget::of(BUDGET),
                        reads: Cell::new(0),
                    };
                    let per_cpu = PerCpu {
                        offsets: vec![0, 0x40],
                        unknown: None,
                    };
                    let ways = Ways::anywhere(START);
                    run(Kernel {
                        memory: &memory,
                        layout: &layout,
                        per_cpu: &per_cpu,
                        ways: &ways,
                    });
                    // What begins a look of its own has read before.
                    let most = 2 * BUDGET + CHASE_MAX as u64;
                    let reads = memory.reads.get();
                    assert!(reads <= most, "{name} in {nature:?}: {reads} reads");
                    let _ = done.send(());
                }
            }
        });
        for nature in [natures(), natures()].concat() {
            match finished.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => panic!("{name} does not end in {nature:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{name} fails in {nature:?}"),
            }
        }
    }
}

/// What the source has as public walks, and what is in the table.
#[test]
fn no_walk_is_forgotten() {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/kernel");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let mut of_kernel = false;
        for line in fs::read_to_string(&path).unwrap().lines() {
            let begins = |with: &str| line.starts_with(with);
            if begins("impl") {
                of_kernel = begins("impl Kernel<'_> {") || begins("impl<'a> Paths<'a> {");
            }
            let function = match line.strip_prefix("    pub fn ") {
                Some(function) if of_kernel => function,
                Some(_) => continue,
                None => match line.strip_prefix("pub fn ") {
                    // Those that take a kernel.
                    Some(function) if ["snapshot(", "survey("].contains(&function) => function,
                    _ => continue,
                },
            };
            let end = function.find(|c: char| !c.is_alphanumeric() && c != '_');
            found.insert(function[..end.unwrap_or(function.len())].to_owned());
        }
    }
    let listed: BTreeSet<String> = WALKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, found);
}
