//! What a capture costs follows its size: small ones of records with extreme values, made to meet each other in every
//! join of the analysis, and everything that is made of them, in bytes written, bytes allocated and bytes held at once.

use serde_json::{Value, json};
use tracer::{
    fuzz::{self, Counting, Noise, written},
    logs,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What something cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    size: u64,
    written: u64,
    allocated: u64,
    peak: u64,
}

fn cost(bytes: &[u8]) -> Cost {
    let (written, cost) = fuzz::cost(|| written(bytes));
    Cost {
        size: bytes.len() as u64,
        written,
        allocated: cost.allocated,
        peak: cost.peak,
    }
}

/// A time, or a count: the ends of what there is, and what is near the others.
fn extreme(numbers: &mut Noise) -> u64 {
    match numbers.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => i64::MAX as u64,
        3 => numbers.number(),
        _ => numbers.below(64) as u64 * 1_000_000_000,
    }
}

const START: &str = r#"{"record":"start","version":"0","kernel":"6.18","tier":"fentry","clock":{"offset_nanos":0},"history":true}"#;

fn process(pid: u64) -> Value {
    json!({"pid": pid, "tid": pid, "comm": "x", "exe": null, "cmdline": null, "uid": 0, "start_time": null,
        "parents": [], "mount_namespace": 1, "pid_namespace": null, "unit": null, "container": null})
}

fn target(number: u64) -> Value {
    json!({"path": format!("/m/{number}"), "mount_id": number, "fs_type": "overlay", "source": null, "device": null,
        "mount_namespace": 1, "propagation": null, "container": null})
}

fn key(number: u64) -> Value {
    json!({"address": number, "id": number, "unique": null})
}

fn opened(time: u64, file: u64, mount: u64) -> Value {
    json!({"record": "opened", "time": time, "file": file, "mount": mount, "dentry": 0, "by": process(file % 100), "fd": 3,
        "mode": 0, "inode_mode": 0o100_000})
}

fn refused(entered: u64, returned: u64, mount: u64) -> Value {
    json!({"record": "umount", "entered": entered, "checked": returned, "returned": returned, "ret": -16, "flags": 0,
        "caller": process(1), "passed": null, "mount": key(mount), "target": target(mount), "shown": true,
        "busy_check": true, "compared": [mount, 3]})
}

fn holder(pid: u64) -> Value {
    json!({"kind": "fd", "also": [], "refs": 1, "process": process(pid), "held_by": null, "fd": 3, "access": null,
        "shared_with": [], "path": "/f", "deleted": false, "seen_as": null, "mount_id": 1, "mount_namespace": 1,
        "through": "target", "counted": true, "propagation": null, "opened": null, "opened_by": null,
        "attempts_blocked": 0, "evidence": []})
}

fn snapshot(time: u64, mount: u64, files: impl Iterator<Item = u64>) -> Value {
    let state = json!({"address": mount, "mount_id": mount, "namespace": 1, "counts": [3, 3], "children": 0,
        "covering": 0});
    let references: Vec<Value> = files
        .map(|file| json!({"mount": mount, "object": file, "dentry": 0, "start": file, "holder": holder(file % 1000)}))
        .collect();
    json!({"record": "snapshot", "mount": key(mount), "attempt": time, "ledger": [],
        "snapshot": {"started": time, "finished": time, "target": state, "slots": [], "references": references,
            "children_counted": false, "gaps": []}})
}

fn operation(time: u64, cause: u64, holders: u64) -> Value {
    let holders: Vec<Value> = (0..holders).map(holder).collect();
    json!({"record": "refused", "cause": cause, "operation": "rename", "returned": time, "caller": process(1),
        "target": target(cause), "reason": "mount_point", "holders": holders, "looked": time})
}

fn some(numbers: &mut Noise) -> Value {
    let (time, later) = (extreme(numbers), extreme(numbers));
    let (file, mount) = (numbers.below(4) as u64, numbers.below(3) as u64);
    match numbers.below(12) {
        0 | 1 => opened(time, file, mount),
        2 => json!({"record": "closed", "time": time, "file": file}),
        3 | 4 => refused(time, later, mount),
        5 => snapshot(time, mount, 0..4),
        6 => json!({"record": "gone", "mount": key(mount), "time": time}),
        7 => operation(time, mount, 3),
        8 => json!({"record": "lost", "time": time, "losses": {"history: x": later, "y": later}}),
        9 => json!({"record": "freed", "cause": mount, "time": time}),
        10 => {
            json!({"record": "slow", "cause": mount, "entered": time, "limit": 1, "flags": 0, "caller": process(1),
            "target": target(mount), "result": null, "ended": null, "others": later, "looked": later,
            "stacks": [{"functions": ["evict"], "looks": later, "first": time, "last": later}]})
        }
        _ => json!({"record": "tick", "time": time}),
    }
}

fn lines(records: impl Iterator<Item = Value>) -> Vec<u8> {
    let mut bytes = START.as_bytes().to_vec();
    for record in records {
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &record).expect("a record is JSON");
    }
    bytes
}

/// Makes so many records of each kind.
type Make = fn(u64) -> Vec<Value>;

/// Records that meet each other.
const JOINS: &[(&str, Make)] = &[
    ("opens and refusals", |many| {
        let opens = (0..many).map(|file| opened(file, file, 1));
        let refusals = (0..many).map(|at| refused(1 << 40, (1 << 40) + at, 1));
        opens.chain(refusals).collect()
    }),
    ("incidents and ticks", |many| {
        let refusals = (0..many).map(|mount| refused(1, 2, mount));
        let ticks = (0..many).map(|_| json!({"record": "tick", "time": 3}));
        refusals.chain(ticks).collect()
    }),
    ("incidents and closes", |many| {
        let opens = (0..many).map(|file| opened(1, file, file));
        let refusals = (0..many).map(|mount| refused(2, 3, mount));
        let closes = (0..many).map(|file| json!({"record": "closed", "time": 4, "file": file}));
        opens.chain(refusals).chain(closes).collect()
    }),
    ("lives and closes", |many| {
        let found = [refused(1, 2, 1), snapshot(3, 1, 0..many)];
        let closes = (0..many).map(|at| json!({"record": "closed", "time": 4, "file": at % 2}));
        found.into_iter().chain(closes).collect()
    }),
    ("lives and snapshots", |many| {
        let found = [refused(1, 2, 1), snapshot(3, 1, 0..many)];
        let snapshots = (0..many).map(|at| snapshot(4 + at, 1, at..=at));
        found.into_iter().chain(snapshots).collect()
    }),
    ("passed and snapshots", |many| {
        let opens = (0..many).map(|file| opened(10 + file, file, 1));
        let attempts = [refused(1 << 40, 1 << 40, 1)];
        let snapshots = (0..many).map(|at| snapshot(at % 5, 1, at..=at));
        opens.chain(attempts).chain(snapshots).collect()
    }),
    ("holders and attempts", |many| {
        let attempts = (0..many).map(|at| refused(at, at, 1));
        attempts.chain([snapshot(1 << 40, 1, 0..many)]).collect()
    }),
    ("operations and their holders", |many| {
        let whole = (many / 8).max(1);
        (0..8).map(|at| operation(at, 1, whole)).collect()
    }),
    ("operations and ticks", |many| {
        let operations = (0..many).map(|cause| operation(1, cause, 0));
        let ticks = (0..many).map(|time| json!({"record": "tick", "time": time}));
        operations.chain(ticks).collect()
    }),
    ("losses of many kinds and lines that are none", |many| {
        let kinds: serde_json::Map<String, Value> =
            (0..many).map(|kind| (format!("k{kind}"), json!(1))).collect();
        let lost = [json!({"record": "lost", "time": 1, "losses": kinds})];
        let broken = (0..many).map(|_| json!({"record": "tick"}));
        lost.into_iter().chain(broken).collect()
    }),
    ("losses of many kinds between lines that are none", |many| {
        let kinds: serde_json::Map<String, Value> =
            (0..many).map(|kind| (format!("k{kind}"), json!(1))).collect();
        let lost = [json!({"record": "lost", "time": 1, "losses": kinds})];
        let between =
            (0..many).flat_map(|time| [json!({"record": "tick"}), json!({"record": "tick", "time": time})]);
        lost.into_iter().chain(between).collect()
    }),
    ("stacks", |many| {
        let stacks: Vec<Value> = (0..many)
            .map(|stack| json!({"functions": [format!("f{stack}")], "looks": 1, "first": 0, "last": 1}))
            .collect();
        vec![
            json!({"record": "slow", "cause": 1, "entered": 1, "limit": 1, "flags": 0, "caller": process(1),
            "target": target(1), "result": [0, 5], "ended": 5, "others": 0, "looked": 5, "stacks": stacks}),
        ]
    }),
];

/// A KiB may cost 64 MiB at the most, and what is held grows with the size.
fn small_captures() {
    let mut numbers = Noise(12);
    for case in 0..400 {
        let count = 1 + numbers.below(40);
        let bytes = lines((0..count).map(|_| some(&mut numbers)));
        let found = cost(&bytes);
        let most = (64 << 20) * found.size.div_ceil(1024);
        assert!(
            found.peak <= (8 << 20) + 200 * found.size,
            "case {case}: {found:?}"
        );
        assert!(found.allocated <= most, "case {case}: {found:?}");
        assert!(
            found.written <= (128 << 10) + 100 * found.size,
            "case {case}: {found:?}"
        );
    }
}

/// Four times the records cost about four times as much.
fn joins() {
    for (name, make) in JOINS {
        let [few, many] = [500, 2000].map(|count| cost(&lines(make(count).into_iter())));
        for (what, few, many) in [
            ("written", few.written, many.written),
            ("allocated", few.allocated, many.allocated),
            ("held", few.peak, many.peak),
        ] {
            assert!(many <= 6 * few + (4 << 20), "{name}: {what}: {few} and {many}");
        }
        assert!(many.peak <= (16 << 20) + 100 * many.size, "{name}: {many:?}");
        assert!(many.written <= (128 << 10) + 100 * many.size, "{name}: {many:?}");
    }
}

/// What packs by the thousand is not believed: a block has no more in it than its size allows.
fn bombs() {
    let json = lines((0..100_000).map(|_| json!({"record": "tick", "time": 1})));
    for content in [json, vec![b'\n'; 60 << 20]] {
        let frame = zstd::bulk::compress(&content, 19).expect("it is compressed");
        let mut block = Vec::new();
        block.extend_from_slice(b"EBUSYBLK");
        for number in [
            1,
            1,
            0,
            0,
            frame.len() as u32,
            content.len() as u32,
            crc32fast::hash(&frame),
        ] {
            block.extend_from_slice(&number.to_le_bytes());
        }
        block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        let start: Value = serde_json::from_str(START).expect("it is JSON");
        let header = json!({"format": 1, "start": start}).to_string();
        let mut bytes = 0x184d_2a5e_u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(16 + header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(b"EBUSYCAP");
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(header.as_bytes()).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&0x184d_2a5e_u32.to_le_bytes());
        bytes.extend_from_slice(&40_u32.to_le_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&frame);
        let found = cost(&bytes);
        assert!(found.written > 0, "the header is believed: {found:?}");
        assert!(found.peak <= (8 << 20) + 200 * found.size, "{found:?}");
    }
}

/// A line of a log is of anybody.
fn logs_of_anybody() {
    let clock = || logs::LogClock {
        now: tracer::model::Timestamp::from_nanos(0),
        boot: None,
        zone: jiff::tz::TimeZone::UTC,
    };
    for phrase in [
        "umount /a: target is busy ",
        "\"device is busy\" ",
        "failed to unmount /a/",
        "\\\"target is busy",
    ] {
        let line = phrase.repeat((60 << 10) / phrase.len());
        let read = || -> Vec<_> { logs::LogReader::new(line.as_bytes(), clock()).flatten().collect() };
        let (found, cost) = fuzz::cost(read);
        assert!(found.len() <= 16, "{phrase}");
        assert!(cost.allocated <= 64 << 20, "{phrase}: {cost:?}");
    }
}

/// One test: what is counted is of the whole process.
#[test]
fn cost_follows_the_input() {
    small_captures();
    joins();
    bombs();
    logs_of_anybody();
}
