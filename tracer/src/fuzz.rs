//! Whatever reads bytes of others, as functions of bytes: for cargo-fuzz (`fuzz/`), and for the test that feeds the
//! corpora to the same functions. None of them may panic, hang or take memory without bound.

use std::{
    cell::Cell,
    io::{self, Write},
    os::fd::AsRawFd as _,
    path::Path,
    rc::Rc,
};

use jiff::tz::TimeZone;
use rustix::fs::MemfdFlags;

use crate::{
    btf::{Btf, resolve_all},
    by_proc, capture,
    export::{Jsonl, Perfetto},
    identity, logs,
    model::Timestamp,
    render::{self, Html, Style},
    report::{Analysis, Finding, Redactor, Tally},
    stream,
};

/// A function of bytes, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("record", record),
    ("segment", segment),
    ("btf", btf),
    ("mountinfo", mountinfo),
    ("cgroup", cgroup),
    ("log", log),
    ("boltdb", boltdb),
];

/// A record of a ring.
pub fn record(bytes: &[u8]) {
    if let Ok(raw) = stream::decode(bytes) {
        let _ = raw.time();
    }
}

/// A capture, with everything that is made of it.
pub fn segment(bytes: &[u8]) {
    let _ = written(bytes);
}

/// The same: how many bytes are written, in all formats.
#[must_use]
pub fn written(bytes: &[u8]) -> u64 {
    let Ok(memory) = rustix::fs::memfd_create("capture", MemfdFlags::CLOEXEC) else {
        return 0;
    };
    let mut file = std::fs::File::from(memory);
    if file.write_all(bytes).is_err() {
        return 0;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Ok(mut reader) = capture::Reader::open(Path::new(&path)) else {
        return 0;
    };
    let Ok(redactor) = Redactor::new() else { return 0 };
    let mut analysis = Analysis::default();
    let count = Count::default();
    let mut outputs = Outputs {
        count: count.clone(),
        json: Jsonl::new(count.clone(), redactor.clone()),
        trace: Perfetto::new(count.clone()),
        page: Html::new(TimeZone::UTC, 4),
        tally: Tally::new(TimeZone::UTC),
        redactor,
    };
    for item in reader.by_ref() {
        match item {
            Ok(mut record) => {
                outputs.redactor.record(&mut record);
                if let Some(clock) = analysis.clock() {
                    let _ = outputs.json.record(&record, clock);
                }
                for finding in analysis.push(record) {
                    outputs.finding(finding);
                }
            }
            Err(error) => count.add(error.to_string().len()),
        }
    }
    for finding in analysis.finish() {
        outputs.finding(finding);
    }
    let damage = reader.notes().lines();
    let summary = outputs.tally.finish(analysis.seen(), damage);
    let style = Style {
        terminal: false,
        zone: TimeZone::UTC,
    };
    count.add(render::summary(&summary, &style).len());
    count.add(outputs.page.finish(&summary, &[], "capture").len());
    count.0.get()
}

/// Counts what is written to it.
#[derive(Debug, Clone, Default)]
struct Count(Rc<Cell<u64>>);

impl Count {
    fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }
}

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Outputs {
    count: Count,
    json: Jsonl<Count>,
    trace: Perfetto<Count>,
    page: Html,
    tally: Tally,
    redactor: Redactor,
}

impl Outputs {
    fn finding(&mut self, mut finding: Finding) {
        let style = Style {
            terminal: false,
            zone: TimeZone::UTC,
        };
        self.count
            .add(render::of_capture(&finding.incident, &[], true, &style).len());
        let _ = self.trace.finding(&finding);
        self.page.incident(&finding, &[]);
        let _ = self.tally.add(&finding);
        self.redactor.incident(&mut finding.incident);
        let _ = self.json.finding(&finding);
    }
}

/// Types of a kernel.
pub fn btf(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes.to_vec()) {
        let _ = resolve_all(&btf, tracer_common::FIELDS);
        let _ = btf.function_params("path_umount");
        let _ = btf.struct_size("mount");
    }
}

/// `/proc/PID/mountinfo`.
pub fn mountinfo(bytes: &[u8]) {
    for line in by_proc::parse_mountinfo(bytes) {
        let _ = identity::mount_claim(&line.path);
    }
}

/// `/proc/PID/cgroup`.
pub fn cgroup(bytes: &[u8]) {
    let _ = identity::membership(bytes);
    let _ = identity::systemd_unit(bytes);
}

/// The database of containerd.
pub fn boltdb(bytes: &[u8]) {
    let _ = identity::metadata_of_bytes(bytes);
}

/// A log of a runtime, of the kubelet, of the journal or of the kernel.
pub fn log(bytes: &[u8]) {
    let clock = logs::LogClock {
        now: Timestamp::from_nanos(1_795_000_000_000_000_000),
        boot: Some(Timestamp::from_nanos(1_794_000_000_000_000_000)),
        zone: TimeZone::UTC,
    };
    let lines: Vec<_> = logs::LogReader::new(bytes, clock).flatten().collect();
    let _ = logs::matched(&lines, &[]);
}
