//! Names processes and their containers: from /proc and from the runtimes' own files.
//!
//! Nothing here may become a holder itself. For a process it reads only `stat`, `status`, `comm`, `cgroup`, `cmdline`
//! (on request) and the text of the `ns/` links; its `fd`, `cwd`, `root`, `exe`, `map_files`, `maps` and `mountinfo`
//! take references on its mounts and stay closed. For a container it reads only the files *beside* its root file
//! system, never anything below it, and not while somebody may be unmounting their mount.

mod boltdb;
mod bundle;
mod bundles;
mod cache;
mod cgroup;
mod clock;
mod complete;
mod container;
mod engines;
mod files;
pub(crate) mod fuzzed;
mod known;
mod metadata;
mod mount_path;
mod owner;
mod places;
mod proc_text;
mod process;
mod requester;
mod spec;
mod storage;
mod trusted;
mod watch;

pub(crate) use self::{
    cache::Bounded,
    cgroup::is_pod_uid,
    files::{mount_id, unescape},
    metadata::of_bytes as metadata_of_bytes,
    trusted::Folder,
};
pub use self::{
    cgroup::{CgroupClaim, Membership, membership, systemd_unit},
    clock::{BootClock, boot_nanos},
    container::{Containers, Found, Lookup},
    mount_path::{MountClaim, MountOwner, mount_claim},
    process::{ProcessReader, arguments},
    requester::requester,
    watch::{WatchPatterns, watch_patterns},
};
