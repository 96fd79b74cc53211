//! Texts that a running system is asked for, as a function of bytes that gives nothing: for fuzzing.

use super::{overlay::OverlayOptions, runtime_state, stack};

/// Any text as each of them: options of an overlay, the kernel's stack of a thread, options of a shim.
pub(crate) fn fuzzed(bytes: &[u8]) {
    let _ = OverlayOptions::parse(bytes);
    let _ = stack::functions(bytes);
    let _ = runtime_state::paths(bytes);
}
