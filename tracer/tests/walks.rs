//! The walks over the memory of a real kernel, as `examples/record_walk.rs` recorded it: as it was, and damaged.
//! `walks/6.1.zst` is of Debian's 6.1.0-56 cloud kernel, like the types in `btf/6.1-cloud-amd64.btf`.

use std::{cell::Cell, collections::BTreeSet, fs, path::PathBuf, time::Instant};

use tracer::{
    btf::Btf,
    kernel::{
        Batch, Budget, Kernel, KernelLayout, KernelMemory, Links, Mount, PerCpu, RecordedMemory, Snapshot,
        Ways,
        recording::{self, Beginning},
        snapshot,
    },
};

/// Damaged memories that are walked.
const CASES: u64 = 300;
/// Words of each that are damaged at the most.
const DAMAGE_MAX: u64 = 48;

struct Recorded {
    beginning: Beginning,
    memory: RecordedMemory,
    layout: KernelLayout,
    per_cpu: PerCpu,
    ways: Ways,
}

impl Recorded {
    fn new() -> Self {
        let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
        let compressed = fs::read(tests.join("walks/6.1.zst")).expect("the recording is there");
        let (beginning, memory) = recording::read(&compressed).expect("the recording is whole");
        let types = fs::read(tests.join("btf/6.1-cloud-amd64.btf")).expect("the types are there");
        assert_eq!(
            beginning.release, "6.1.0-56-cloud-amd64",
            "the types are of that one"
        );
        Self {
            per_cpu: PerCpu {
                offsets: beginning.per_cpu.clone(),
                unknown: None,
            },
            layout: KernelLayout::resolve(&Btf::parse(types).expect("the types are BTF")),
            ways: Ways::default(),
            beginning,
            memory,
        }
    }

    fn kernel<'a>(&'a self, memory: &'a dyn KernelMemory) -> Kernel<'a> {
        Kernel {
            memory,
            layout: &self.layout,
            per_cpu: &self.per_cpu,
            ways: &self.ways,
        }
    }

    fn target(&self) -> Mount {
        self.kernel(&self.memory)
            .mount(self.beginning.target)
            .expect("the mount is in the recording")
    }

    fn walk(&self, memory: &dyn KernelMemory) -> Snapshot {
        snapshot(
            self.kernel(memory),
            &self.target(),
            self.beginning.task,
            &[],
            || 0,
        )
    }
}

/// Memory that counts what is read of it. A list of more links than it has words goes in circles.
struct Counted<'m> {
    memory: &'m RecordedMemory,
    words: usize,
    steps: Cell<usize>,
}

impl<'m> Counted<'m> {
    fn new(memory: &'m RecordedMemory, words: usize) -> Self {
        Self {
            memory,
            words,
            steps: Cell::new(0),
        }
    }
}

impl KernelMemory for Counted<'_> {
    fn read(&self, addresses: &[u64], offset: u32, len: usize) -> Batch {
        self.steps.set(self.steps.get() + addresses.len());
        self.memory.read(addresses, offset, len)
    }

    fn links(&self, first: u64, offset: u32, stop: u64, most: usize) -> Links {
        let links = self.memory.links(first, offset, stop, most.min(self.words));
        self.steps.set(self.steps.get() + links.nodes.len());
        links
    }

    fn budget(&self) -> &Budget {
        self.memory.budget()
    }
}

/// Who holds through what, of whom.
fn named(snapshot: &Snapshot) -> BTreeSet<String> {
    let references = snapshot.references.iter().chain(&snapshot.candidates);
    references
        .map(|reference| {
            let holder = &reference.holder;
            let comm = holder
                .process
                .as_ref()
                .map_or_else(Default::default, |process| process.comm.to_str_lossy());
            format!(
                "{:?} {:?} {comm} {}",
                holder.through,
                holder.kind,
                holder.path.to_str_lossy()
            )
        })
        .collect()
}

fn pids(snapshot: &Snapshot) -> BTreeSet<u32> {
    let references = snapshot.references.iter().chain(&snapshot.candidates);
    references
        .flat_map(|reference| {
            let holder = &reference.holder;
            let owner = holder.process.as_ref().map(|process| process.pid);
            owner
                .into_iter()
                .chain(holder.shared_with.iter().map(|sharer| sharer.pid))
        })
        .collect()
}

#[test]
fn undamaged_the_holders_are_those_that_were_there() {
    let recorded = Recorded::new();
    let found = recorded.walk(&recorded.memory);
    assert_eq!(found.gaps, Vec::<String>::new());
    let expected: BTreeSet<String> = EXPECTED.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(named(&found), expected);
    let [before, after] = found.target.counts;
    let explained: u64 = found
        .references
        .iter()
        .filter(|reference| reference.mount == found.target.address)
        .map(|reference| reference.holder.refs)
        .sum();
    // The mount itself has one.
    assert_eq!((before, after), (Some(explained as i32 + 1), before));
}

/// Numbers that look random and are the same each time (`SplitMix64`).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Whatever a list or a pointer leads to: the walk ends, and names nobody who was not there.
#[test]
fn damaged_it_ends_and_names_nobody_who_was_not_there() {
    let recorded = Recorded::new();
    let runs = recorded.memory.runs();
    let words: Vec<(u64, u64)> = runs
        .iter()
        .flat_map(|(address, run)| {
            let start = address.next_multiple_of(8);
            let skipped = usize::try_from(start - address).unwrap();
            let words = run.get(skipped..).unwrap_or_default().as_chunks::<8>().0;
            words
                .iter()
                .enumerate()
                .map(move |(index, word)| (start + index as u64 * 8, u64::from_le_bytes(*word)))
        })
        .collect();
    let pointers: Vec<(u64, u64)> = words
        .iter()
        .copied()
        .filter(|(_, word)| (0xff00_0000_0000_0000..u64::MAX - 4096).contains(word))
        .collect();
    assert!(pointers.len() > 3000, "{} pointers", pointers.len());

    let memory = Counted::new(&recorded.memory, words.len());
    let whole = recorded.walk(&memory);
    let usual = memory.steps.get();
    let tasks = recorded.kernel(&recorded.memory).tasks(recorded.beginning.task);
    let known: BTreeSet<u32> = tasks.all.iter().map(|task| task.tgid).collect();
    let held = named(&whole).len();

    let (mut incomplete, mut fewer, mut most) = (0, 0, 0);
    let began = Instant::now();
    for case in 0..CASES {
        let mut numbers = Numbers(case);
        let mut memory = recorded.memory.clone();
        for _ in 0..=numbers.below(DAMAGE_MAX) {
            let (at, word) = pointers[numbers.below(pointers.len() as u64) as usize];
            let (other_at, other) = pointers[numbers.below(pointers.len() as u64) as usize];
            let damaged = match numbers.below(6) {
                // What can be followed is the worst: where another pointer leads, another word, itself.
                0 | 1 => other,
                2 => other_at,
                3 => at,
                4 => word ^ 1 << numbers.below(48),
                _ => 0,
            };
            memory.write_word(at, damaged);
        }
        let memory = Counted::new(&memory, words.len());
        let found = recorded.walk(&memory);
        let steps = memory.steps.get();
        most = most.max(steps);
        assert!(steps < usual * 40, "case {case}: {steps} steps, {usual} usually");
        let strangers: Vec<u32> = pids(&found).difference(&known).copied().collect();
        assert!(strangers.is_empty(), "case {case}: {strangers:?} in {found:#?}");
        incomplete += usize::from(!found.gaps.is_empty());
        fewer += usize::from(named(&found).len() < held);
    }
    println!(
        "{CASES} damaged memories of {} words in {:?}: {incomplete} incomplete, {fewer} with fewer than {held} holders; \
         {most} steps at the most, {usual} usually",
        words.len(),
        began.elapsed()
    );
    // Damage of this kind is noticed: it is not all swallowed.
    assert!(incomplete > 0);
}

/// What the script that took it held.
const EXPECTED: &[&str] = &[
    "Target Cwd sh /",
    "Target Exe hold-idle /hold-idle",
    "Target Cwd hold-cwd /dir",
    "Target Fd hold-fd /file",
    "Target ScmRights hold-scm-rights /file",
    "Target Fd hold-thread-fd /file",
    "Target UnixSocket hold-unix-liste /socket",
    "Target Mmap hold-mmap /file",
    "Target IoUring hold-uring-fixe /file",
    "Target IoUring hold-uring-queu /file",
    "Target Cwd record_walk /",
    "PrivateCopy Fd hold-fd /dir",
];
