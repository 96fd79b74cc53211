//! From the functions that a thread was in to what it was doing and what it waited for. What is not in the tables stays
//! unknown; its function is told all the same.

use std::collections::HashMap;

use crate::{
    identity::BootClock,
    model::{Phase, Wait, WaitsFor},
    stream::Stack,
};

/// How a function is recognised.
#[derive(Debug, Clone, Copy)]
enum Name {
    Is(&'static str),
    Starts(&'static str),
    Ends(&'static str),
}

use Name::{Ends, Is, Starts};

impl Name {
    fn covers(self, function: &str) -> bool {
        match self {
            Is(name) => function == name,
            Starts(name) => function.starts_with(name),
            Ends(name) => function.ends_with(name),
        }
    }
}

/// The innermost of these says what it was doing. Names of fs/namei.c, namespace.c, super.c, sync.c, inode.c, dcache.c,
/// fs-writeback.c, mm/filemap.c, 5.10 to 7.2.
const PHASES: &[(Name, Phase)] = &[
    (Ends("_umount_begin"), Phase::Abort),
    (Ends("_sync_fs"), Phase::Sync),
    (Starts("sync_filesystem"), Phase::Sync),
    (Starts("__sync_filesystem"), Phase::Sync),
    (Starts("sync_inodes"), Phase::Sync),
    (Starts("sync_blockdev"), Phase::Sync),
    (Starts("__sync_blockdev"), Phase::Sync),
    (Starts("writeback_"), Phase::Sync),
    (Starts("__writeback_"), Phase::Sync),
    (Starts("wb_wait_for_completion"), Phase::Sync),
    (Starts("try_to_writeback_inodes"), Phase::Sync),
    (Starts("write_inode_now"), Phase::Sync),
    (Starts("filemap_fdatawait"), Phase::Sync),
    (Starts("__filemap_fdatawait"), Phase::Sync),
    (Starts("filemap_write_and_wait"), Phase::Sync),
    (Starts("filemap_fdatawrite"), Phase::Sync),
    (Starts("sync_dirty_buffer"), Phase::Sync),
    (Starts("__sync_dirty_buffer"), Phase::Sync),
    (Starts("jbd2_log_wait_commit"), Phase::Sync),
    (Starts("jbd2_journal_flush"), Phase::Sync),
    (Starts("btrfs_commit_transaction"), Phase::Sync),
    (Starts("evict"), Phase::Evict),
    (Starts("dispose_list"), Phase::Evict),
    (Starts("truncate_inode_pages"), Phase::Evict),
    (Starts("invalidate_inodes"), Phase::Evict),
    (Starts("shrink_dcache_for_umount"), Phase::Evict),
    (Starts("shrink_dentry_list"), Phase::Evict),
    (Starts("do_one_tree"), Phase::Evict),
    (Ends("_commit_super"), Phase::Sync),
    (Ends("_put_super"), Phase::Shutdown),
    (Ends("_kill_sb"), Phase::Shutdown),
    (Starts("kill_block_super"), Phase::Shutdown),
    (Starts("kill_anon_super"), Phase::Shutdown),
    (Starts("kill_litter_super"), Phase::Shutdown),
    (Starts("generic_shutdown_super"), Phase::Shutdown),
    (Starts("deactivate_locked_super"), Phase::Shutdown),
    (Starts("deactivate_super"), Phase::Shutdown),
    (Starts("cleanup_mnt"), Phase::Shutdown),
    (Starts("path_lookupat"), Phase::Lookup),
    (Starts("filename_lookup"), Phase::Lookup),
    (Starts("user_path_at"), Phase::Lookup),
    (Starts("path_umount"), Phase::Tables),
    (Starts("do_umount"), Phase::Tables),
    (Starts("umount_tree"), Phase::Tables),
    (Starts("propagate_umount"), Phase::Tables),
    (Starts("namespace_lock"), Phase::Tables),
    (Starts("namespace_unlock"), Phase::Tables),
];

/// The innermost of these says what it waited for.
const WAITS: &[(Name, WaitsFor)] = &[
    (Is("request_wait_answer"), WaitsFor::FuseServer),
    (Starts("fuse_"), WaitsFor::FuseServer),
    (Starts("__fuse_"), WaitsFor::FuseServer),
    (Starts("rpc_"), WaitsFor::NetworkServer),
    (Starts("__rpc_"), WaitsFor::NetworkServer),
    (Starts("xprt_"), WaitsFor::NetworkServer),
    (Starts("nfs"), WaitsFor::NetworkServer),
    (Starts("ceph_"), WaitsFor::NetworkServer),
    (Starts("cifs_"), WaitsFor::NetworkServer),
    (Starts("smb2_"), WaitsFor::NetworkServer),
    (Starts("SMB2_"), WaitsFor::NetworkServer),
    (Starts("p9_"), WaitsFor::NetworkServer),
    (Starts("v9fs_"), WaitsFor::NetworkServer),
    (Starts("synchronize_rcu"), WaitsFor::Rcu),
    (Starts("synchronize_srcu"), WaitsFor::Rcu),
    (Starts("__wait_rcu_gp"), WaitsFor::Rcu),
    (Starts("wait_rcu_gp"), WaitsFor::Rcu),
    (Starts("rcu_barrier"), WaitsFor::Rcu),
    (Starts("io_schedule"), WaitsFor::Device),
    (Starts("folio_wait_"), WaitsFor::Device),
    (Starts("wait_on_page_"), WaitsFor::Device),
    (Starts("__wait_on_buffer"), WaitsFor::Device),
    (Starts("bit_wait_io"), WaitsFor::Device),
    (Starts("wait_for_completion_io"), WaitsFor::Device),
    (Starts("submit_bio_wait"), WaitsFor::Device),
    (Starts("blkdev_issue_flush"), WaitsFor::Device),
    (Starts("blk_mq_"), WaitsFor::Device),
    (Starts("rq_qos_wait"), WaitsFor::Device),
    (Starts("wb_wait_for_completion"), WaitsFor::Device),
    (Starts("jbd2_log_wait_commit"), WaitsFor::Device),
    (Starts("rwsem_down_"), WaitsFor::Lock),
    (Starts("down_read"), WaitsFor::Lock),
    (Starts("down_write"), WaitsFor::Lock),
    (Starts("__percpu_down_read"), WaitsFor::Lock),
    (Starts("percpu_down_write"), WaitsFor::Lock),
    (Starts("percpu_rwsem_wait"), WaitsFor::Lock),
    (Starts("__mutex_lock"), WaitsFor::Lock),
    (Starts("mutex_lock"), WaitsFor::Lock),
    (Starts("super_lock"), WaitsFor::Lock),
];

/// Functions that only sleep: the one that called them says more.
const SLEEPS: &[Name] = &[
    Starts("__schedule"),
    Starts("schedule"),
    Starts("io_schedule"),
    Starts("preempt_schedule"),
    Starts("__cond_resched"),
    Starts("wait_for_completion"),
    Starts("__wait_for_common"),
    Starts("wait_for_common"),
    Starts("__wait_on_bit"),
    Starts("out_of_line_wait_on_bit"),
    Starts("bit_wait"),
    Starts("rwsem_down_"),
    Starts("down_read"),
    Starts("down_write"),
    Starts("__mutex_lock"),
    Starts("mutex_lock"),
    Starts("__percpu_down_read"),
    Starts("percpu_rwsem_wait"),
];

/// File systems whose pages are written to a server, by their type.
const SERVED: &[(&str, WaitsFor)] = &[
    ("fuse", WaitsFor::FuseServer),
    ("nfs", WaitsFor::NetworkServer),
    ("cifs", WaitsFor::NetworkServer),
    ("smb3", WaitsFor::NetworkServer),
    ("ceph", WaitsFor::NetworkServer),
    ("9p", WaitsFor::NetworkServer),
];

fn innermost<T: Copy>(functions: &[String], table: &[(Name, T)]) -> Option<T> {
    functions.iter().find_map(|function| {
        let known = table.iter().find(|(name, _)| name.covers(function));
        known.map(|(_, found)| *found)
    })
}

/// What it waited for. Pages are waited for like those of a device, whoever writes them.
fn waits_for(functions: &[String], fs_type: Option<&str>) -> Option<WaitsFor> {
    if functions.is_empty() {
        return Some(WaitsFor::Cpu);
    }
    let found = innermost(functions, WAITS)?;
    if found != WaitsFor::Device {
        return Some(found);
    }
    let served = WAITS
        .iter()
        .filter(|(_, of)| matches!(of, WaitsFor::FuseServer | WaitsFor::NetworkServer));
    let by_name = functions.iter().find_map(|function| {
        let known = served.clone().find(|(name, _)| name.covers(function));
        known.map(|(_, found)| *found)
    });
    let by_type = || {
        let fs_type = fs_type.filter(|fs_type| *fs_type != "fuseblk")?;
        let known = SERVED.iter().find(|(name, _)| fs_type.starts_with(name));
        known.map(|(_, found)| *found)
    };
    by_name.or_else(by_type).or(Some(found))
}

/// What was seen, most often first; stacks that say the same are one.
pub(super) fn waits(stacks: &[Stack], fs_type: Option<&str>, clock: BootClock) -> Vec<Wait> {
    let mut sorted: Vec<&Stack> = stacks.iter().collect();
    sorted.sort_by_key(|stack| std::cmp::Reverse(stack.looks));
    let mut waits: Vec<Wait> = Vec::new();
    let mut known = HashMap::new();
    for stack in sorted {
        let functions = &stack.functions;
        let function = functions
            .iter()
            .find(|function| !SLEEPS.iter().any(|name| name.covers(function)));
        let found = Wait {
            phase: innermost(functions, PHASES).unwrap_or(Phase::Unknown),
            waits_for: waits_for(functions, fs_type),
            function: function.cloned(),
            looks: stack.looks,
            first: clock.timestamp(stack.first),
            last: clock.timestamp(stack.last),
            stack: functions.clone(),
        };
        let key = (found.phase, found.waits_for, found.function.clone());
        let at = *known.entry(key).or_insert(waits.len());
        match waits.get_mut(at) {
            Some(wait) => {
                wait.looks = wait.looks.saturating_add(found.looks);
                wait.first = wait.first.min(found.first);
                wait.last = wait.last.max(found.last);
            }
            None => waits.push(found),
        }
    }
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.looks));
    waits
}

#[cfg(test)]
mod tests {
    use super::{Phase, Stack, WaitsFor, waits};
    use crate::{identity::BootClock, model::Wait};

    fn seen(stacks: &[(&str, u64)], fs_type: &str) -> Vec<Wait> {
        let stacks: Vec<Stack> = stacks
            .iter()
            .map(|(functions, looks)| Stack {
                functions: functions.split_whitespace().map(str::to_owned).collect(),
                looks: *looks,
                first: 10 - looks,
                last: 10,
            })
            .collect();
        waits(&stacks, Some(fs_type), BootClock { offset_nanos: 0 })
    }

    const TAIL: &str =
        "generic_shutdown_super kill_block_super deactivate_locked_super cleanup_mnt task_work_run";

    fn one(functions: &str, fs_type: &str) -> (Phase, Option<WaitsFor>, Option<String>) {
        let wait = seen(&[(functions, 1)], fs_type).remove(0);
        (wait.phase, wait.waits_for, wait.function)
    }

    #[test]
    fn stacks_of_umounts() {
        use Phase as P;
        use WaitsFor as W;
        for (functions, fs_type, phase, waits_for, function) in [
            (
                "io_schedule folio_wait_bit_common folio_wait_writeback __filemap_fdatawait_range sync_filesystem",
                "ext4",
                P::Sync,
                Some(W::Device),
                "folio_wait_bit_common",
            ),
            (
                "rwsem_down_read_slowpath down_read ovl_sync_fs sync_filesystem",
                "overlay",
                P::Sync,
                Some(W::Lock),
                "ovl_sync_fs",
            ),
            (
                "wb_wait_for_completion sync_inodes_sb sync_filesystem",
                "nfs4",
                P::Sync,
                Some(W::NetworkServer),
                "wb_wait_for_completion",
            ),
            (
                "request_wait_answer __fuse_simple_request fuse_sync_fs ovl_sync_fs",
                "overlay",
                P::Sync,
                Some(W::FuseServer),
                "request_wait_answer",
            ),
            (
                "folio_wait_writeback fuse_writepages write_inode_now evict",
                "overlay",
                P::Sync,
                Some(W::FuseServer),
                "folio_wait_writeback",
            ),
            (
                "truncate_inode_pages_range truncate_inode_pages_final evict evict_inodes",
                "xfs",
                P::Evict,
                None,
                "truncate_inode_pages_range",
            ),
            (
                "rwsem_down_write_slowpath down_write path_umount __x64_sys_umount",
                "tmpfs",
                P::Tables,
                Some(W::Lock),
                "path_umount",
            ),
            (
                "schedule synchronize_rcu_expedited namespace_unlock path_umount",
                "tmpfs",
                P::Tables,
                Some(W::Rcu),
                "synchronize_rcu_expedited",
            ),
            (
                "request_wait_answer fuse_lookup __lookup_slow path_lookupat filename_lookup user_path_at",
                "fuse",
                P::Lookup,
                Some(W::FuseServer),
                "request_wait_answer",
            ),
            (
                "schedule vendor_thing ext4_put_super",
                "ext4",
                P::Shutdown,
                None,
                "vendor_thing",
            ),
            (
                "schedule vendor_thing task_work_run",
                "ext4",
                P::Unknown,
                None,
                "vendor_thing",
            ),
        ] {
            let found = one(
                &format!(
                    "{functions} {}",
                    if phase == P::Unknown || phase == P::Tables || phase == P::Lookup {
                        ""
                    } else {
                        TAIL
                    }
                ),
                fs_type,
            );
            assert_eq!(
                found,
                (phase, waits_for, Some(function.to_owned())),
                "{functions}"
            );
        }
        assert_eq!(one("", "ext4"), (P::Unknown, Some(W::Cpu), None));
    }

    #[test]
    fn stacks_that_say_the_same_are_one() {
        let found = seen(
            &[
                ("ovl_sync_fs sync_filesystem a", 3),
                ("", 4),
                ("ovl_sync_fs sync_filesystem b", 2),
            ],
            "overlay",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].looks, found[0].function.as_deref()),
            (5, Some("ovl_sync_fs"))
        );
        assert_eq!(found[0].stack[2], "a");
        assert_eq!(found[0].first.as_nanos(), 7);
    }
}
