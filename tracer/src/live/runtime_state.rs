//! What a runtime leaves behind at its first failed delete: runc's state of the container is gone, its mounts are not.
//!
//! The shim of containerd has runc delete the container before it unmounts the root file system
//! (`cmd/containerd-shim-runc-v2/process/init.go` `Init.delete`), and runc removes the container's directory in its root.
//! That sets the time of the directory above, which later containers set again: so it is a bound. Measured with
//! containerd 1.6.20 and runc 1.1: nothing in the bundle itself is changed then, and the shim's log there changes with
//! every message.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::Stat;

use crate::{
    identity::{Containers, Folder, MountOwner, mount_claim},
    model::{Since, SinceSource, Timestamp},
};

/// Where the shim tells runc to keep its state (`runc.RuncRoot`).
const ROOT: &str = "/run/containerd/runc";
/// More paths than that in the options of a shim are not tried.
const ROOTS_MAX: usize = 8;

/// Since when the root file system at that path is stuck, by runc's state; `None` where that is there, or elsewhere. Reads
/// files: only for a start.
#[must_use]
pub(crate) fn by_runtime_state(containers: &Containers, path: &[u8]) -> Option<Since> {
    let Some(MountOwner::Task {
        namespace,
        id,
        bundle,
    }) = mount_claim(path)?.owner
    else {
        return None;
    };
    if bundle.join("rootfs").as_os_str().as_bytes() != path {
        return None;
    }
    // <state>/io.containerd.runtime.v2.task/<namespace>/<id>
    let state = bundle.ancestors().nth(3)?;
    let folder = containers.folder(state)?;
    let below = bundle.strip_prefix(state).ok()?;
    // Its format changed with the versions of containerd; a root that was chosen is in it as text.
    let (_, options) = folder.read(&below.join("options.json"))?;
    let mut roots: Vec<PathBuf> = paths(&options);
    if roots.is_empty() {
        roots.push(ROOT.into());
    }
    roots.truncate(ROOTS_MAX);
    let mut states: Vec<Folder> = roots
        .iter()
        .filter_map(|root| containers.folder(&root.join(&namespace)))
        .collect();
    let state = states.pop().filter(|_| states.is_empty())?;
    if state.stat(Path::new(&id)).is_some() {
        return None;
    }
    let since = modified(&state.stat(Path::new(""))?)?;
    // It was there when the container was started: the directory changed after that.
    if since < modified(&folder.stat(&below.join("init.pid"))?)? {
        return None;
    }
    Some(Since {
        time: Timestamp::from_nanos(since),
        source: SinceSource::RuntimeState,
    })
}

/// In nanoseconds of the wall clock.
fn modified(stat: &Stat) -> Option<i64> {
    let nanos = i64::try_from(stat.st_mtime_nsec).ok()?;
    stat.st_mtime.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// The absolute paths in text or in Protocol Buffers: `types.containerd.io/...` is none.
pub(super) fn paths(options: &[u8]) -> Vec<PathBuf> {
    let is_part = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let mut found: Vec<PathBuf> = options
        .split(|byte| !is_part(*byte))
        .filter_map(|text| {
            let at = text.iter().position(|byte| *byte == b'/')?;
            // A length of Protocol Buffers may look like a letter.
            (at <= 1 && text.len() > at + 1).then(|| {
                let path = text.get(at..).unwrap_or_default();
                PathBuf::from(std::ffi::OsStr::from_bytes(path))
            })
        })
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, SystemTime},
    };

    use proptest::prelude::any;

    use super::{by_runtime_state, paths};
    use crate::{
        identity::Containers,
        model::{Since, SinceSource},
    };

    const BUNDLE: &str = "run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41";
    const PATH: &[u8] = b"/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41/rootfs";

    fn touch(path: &Path, seconds: u64) {
        let file = fs::File::open(path).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }

    fn host(options: &[u8], state: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join(BUNDLE);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("options.json"), options).unwrap();
        fs::write(bundle.join("init.pid"), "7").unwrap();
        touch(&bundle.join("init.pid"), 100);
        let state = root.path().join(state).join("k8s.io");
        fs::create_dir_all(state.join("other")).unwrap();
        touch(&state, 200);
        root
    }

    fn of(root: &tempfile::TempDir, path: &[u8]) -> Option<Since> {
        by_runtime_state(&Containers::new("/proc", root.path()), path)
    }

    fn since(root: &tempfile::TempDir) -> Option<i64> {
        let since = of(root, PATH)?;
        assert_eq!(since.source, SinceSource::RuntimeState);
        Some(since.time.as_nanos() / 1_000_000_000)
    }

    #[test]
    fn the_state_is_gone_since_then() {
        let type_of = b"\x0a\x25types.containerd.io/opencontainers/runtime-spec/1/Options";
        let root = host(type_of, "run/containerd/runc");
        assert_eq!(since(&root), Some(200));
        let state = root.path().join("run/containerd/runc/k8s.io");
        // It is there still, or the directory did not change since the start.
        fs::create_dir(state.join("9c41")).unwrap();
        assert_eq!(since(&root), None);
        fs::remove_dir(state.join("9c41")).unwrap();
        touch(&state, 99);
        assert_eq!(since(&root), None);
        // What is no root file system of a task.
        assert_eq!(of(&root, b"/run/containerd"), None);
        assert_eq!(of(&root, b"/a/b/c/rootfs"), None);
    }

    #[test]
    fn a_root_of_its_own_is_used_if_it_can_be_told() {
        let root = host(b"\x32\x0d/usr/bin/runc\x3a\x08/srv/own", "srv/own");
        assert_eq!(since(&root), Some(200));
        let root = host(br#"{"root":"/srv/own","binary_name":"/usr/bin/crun"}"#, "srv/own");
        assert_eq!(since(&root), Some(200));
        // Nowhere, or in the usual one although another was chosen.
        assert_eq!(since(&host(b"/srv/own", "srv/other")), None);
        assert_eq!(since(&host(b"/srv/own", "run/containerd/runc")), None);
        let root = host(b"", "run/containerd/runc");
        fs::remove_file(root.path().join(BUNDLE).join("options.json")).unwrap();
        assert_eq!(since(&root), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = paths(&bytes);
        }
    }
}
