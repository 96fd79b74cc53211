//! The kernel's and the runtimes' own texts, logs, and events of the kernel programs.

use std::sync::OnceLock;

use jiff::tz::TimeZone;

use super::{capture, mutate::RECORDS};
use crate::{
    btf::{Btf, resolve_all},
    by_proc, cli, identity, kernel, live, logs,
    model::{Incident, Timestamp},
    probe, stream,
};

/// An event of a ring.
pub(super) fn event(bytes: &[u8]) {
    if let Ok(raw) = stream::decode(bytes) {
        let _ = raw.time();
        // As it is kept.
        if let stream::Raw::Opened(opened) = raw {
            let _ = serde_json::to_vec(&opened);
        }
    }
}

/// Types of a kernel.
pub(super) fn btf(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes.to_vec()) {
        let _ = resolve_all(&btf, tracer_common::FIELDS);
        let _ = btf.function_params("path_umount");
        let _ = btf.struct_size("mount");
    }
}

/// `/proc/PID/mountinfo`.
pub(super) fn mountinfo(bytes: &[u8]) {
    for line in by_proc::parse_mountinfo(bytes) {
        let _ = identity::mount_claim(&line.path);
    }
}

/// `/proc/PID/cgroup`.
pub(super) fn cgroup(bytes: &[u8]) {
    let _ = identity::membership(bytes);
    let _ = identity::systemd_unit(bytes);
}

/// Whatever else is read of /proc, /sys and tracefs: each of these looks for something of its own in any text.
pub(super) fn proc(bytes: &[u8]) {
    identity::fuzzed::process_text(bytes);
    by_proc::fuzzed(bytes);
    kernel::fuzzed(bytes);
    live::fuzzed(bytes);
    probe::fuzzed(bytes);
}

/// The database of containerd.
pub(super) fn boltdb(bytes: &[u8]) {
    let _ = identity::metadata_of_bytes(bytes);
}

/// `config.json` of a bundle.
pub(super) fn config(bytes: &[u8]) {
    identity::fuzzed::config(bytes);
}

/// What engines keep of containers, as JSON.
pub(super) fn engine(bytes: &[u8]) {
    identity::fuzzed::engine(bytes);
    live::fuzzed(bytes);
}

/// A log of a runtime, of the kubelet, of the journal or of the kernel: beside a capture, and as questions.
pub(super) fn log(bytes: &[u8]) {
    static INCIDENTS: OnceLock<Vec<Incident>> = OnceLock::new();
    let incidents = INCIDENTS.get_or_init(|| {
        let mut incidents = Vec::new();
        capture::read(RECORDS.as_bytes(), |incident| incidents.push(incident));
        incidents
    });
    let clock = || logs::LogClock {
        now: Timestamp::from_nanos(1_795_000_060_000_000_000),
        boot: Some(Timestamp::from_nanos(1_794_000_000_000_000_000)),
        zone: TimeZone::UTC,
    };
    let lines: Vec<_> = logs::LogReader::new(bytes, clock()).flatten().collect();
    let _ = logs::matched(&lines, incidents);
    cli::fuzzed(bytes, clock());
}
