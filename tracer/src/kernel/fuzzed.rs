//! Texts of /proc and /sys about the kernel, as a function of bytes that gives nothing: for fuzzing.

use super::{loop_device::file_name, per_cpu::parse_cpu_list, swap::swap_areas, ways::symbol};

/// Any text as each of them.
pub(crate) fn fuzzed(bytes: &[u8]) {
    let _ = swap_areas(bytes);
    let _ = file_name(bytes);
    let _ = symbol(bytes, b"swap_info");
    let cpus = std::str::from_utf8(bytes).ok().and_then(parse_cpu_list);
    assert!(cpus.is_none_or(|cpus| cpus.len() <= 1 << 20));
}
