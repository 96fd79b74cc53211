//! What to do about an umount that takes long.

use crate::{
    model::{Fix, Phase, Slow, Target, WaitsFor},
    text::Command,
};

/// Waits that are advised about at the most.
const WAITS: usize = 4;

/// What shortens it, by what it was seen at most often; then what does not help.
pub(super) fn of_slow(slow: &Slow, target: &Target) -> Vec<Fix> {
    let mut fixes: Vec<Fix> = Vec::new();
    let mut add = |fix: Fix| {
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    };
    let is_overlay = target.fs_type.as_deref() == Some("overlay");
    for wait in slow.waits.iter().take(WAITS) {
        match wait.waits_for {
            Some(WaitsFor::FuseServer) => add(Fix::change(
                "have the FUSE server answer, or end it; what waits for it is aborted by a 1 in \
                 /sys/fs/fuse/connections/N/abort (N: its minor device number)",
            )),
            Some(WaitsFor::NetworkServer) => add(Fix::change(
                "see whether the file server answers; the umount goes on once it does",
            )),
            _ => {}
        }
        match wait.phase {
            Phase::Sync if is_overlay => add(Fix::change(
                "an overlay syncs the whole file system of its upper directory: write that back before (sync -f of it), \
                 or mount the overlay with `volatile` (Linux 5.10 on) where its data may be lost in a crash",
            )),
            Phase::Sync => add(Fix::command(
                "write back what is dirty before, while it is still mounted",
                Command::new(&["sync", "-f"]).path(target.path.as_bytes()),
                "",
            )),
            Phase::Evict => add(Fix::change(
                "what is cached of it has to be freed: the more files and pages, the longer; have whoever unmounts wait",
            )),
            Phase::Tables if wait.waits_for == Some(WaitsFor::Lock) => add(Fix::change(
                "somebody else changes mount tables: look for other slow umounts and mounts, and for very many mounts",
            )),
            Phase::Tables if wait.waits_for == Some(WaitsFor::Rcu) => add(Fix::change(
                "each umount waits for all CPUs once: nothing but fewer umounts shortens that",
            )),
            _ => {}
        }
    }
    if slow
        .waits
        .iter()
        .any(|wait| wait.phase == Phase::Sync || wait.phase == Phase::Evict)
    {
        add(Fix::change(
            "umount -l does not help: whoever drops the last reference waits as long",
        ));
    }
    fixes
}
