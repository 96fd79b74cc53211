//! The parsers of /proc and of runtime files, as functions of bytes without a result: for fuzzing.

use super::{
    bundle::{details, notes_of},
    proc_text, process, spec, storage,
};

/// Texts below /proc/PID.
pub(crate) fn process_text(bytes: &[u8]) {
    let _ = proc_text::stat(bytes).map(|stat| stat.is_dead());
    let _ = proc_text::real_uid(bytes);
    let _ = proc_text::cmdline(bytes);
    let _ = proc_text::comm(bytes);
    let _ = proc_text::namespace(bytes);
    let _ = process::arguments(bytes);
}

/// `config.json` of a bundle, and the container made from it.
pub(crate) fn config(bytes: &[u8]) {
    if let Some(spec) = spec::parse(bytes) {
        let _ = notes_of(&spec.annotations);
        let _ = details(&spec, Some("k8s.io"), "9c41");
    }
}

/// The files of containers/storage and of Docker.
pub(crate) fn engine(bytes: &[u8]) {
    let _ = storage::storage_list(bytes);
    let _ = storage::docker_config(bytes);
    let _ = storage::docker_host(bytes);
}
