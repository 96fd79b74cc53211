//! What to do about what keeps the target of a refused rmdir, mount, remount and the like. Nothing of it is done by
//! ebusy itself.

use super::{copies::umount_in, owners::ending, umount::of_holders};
use crate::{
    model::{Fix, Holder, Kind, Operation, Reason, Target, Through},
    text::{Command, name_in_text},
};

/// Mounts that are told one by one.
const MOUNTS_MAX: usize = 4;

/// What frees the target of an operation of that name, least harmful first.
pub(super) fn of_operation(
    operation: Operation,
    reason: Reason,
    holders: &[Holder],
    target: &Target,
) -> Vec<Fix> {
    let (mounts, others): (Vec<&Holder>, Vec<&Holder>) =
        holders.iter().partition(|holder| holder.kind == Kind::Mount);
    let others: Vec<Holder> = others.into_iter().cloned().collect();
    let mut found = match reason {
        Reason::MountedThere => vec![Fix::change(
            "it is mounted there already, so there may be nothing to do",
        )],
        _ => Vec::new(),
    };
    found.extend(devices_above(&others));
    let processes: Vec<Holder> = others
        .iter()
        .filter(|holder| holder.kind != Kind::Kernel || holder.process.is_some())
        .cloned()
        .collect();
    let own = of_holders(&processes, &[], target);
    // What follows an umount, and shows that it is free, is not what follows here.
    found.extend(own.into_iter().filter(Fix::is_for_people).map(|fix| Fix {
        then: None,
        check: None,
        ..fix
    }));
    found.extend(users(&others));
    for (index, holder) in mounts.iter().take(MOUNTS_MAX).enumerate() {
        let mut fix = take_away(holder);
        if index > 0 {
            fix.text.insert_str(0, "and ");
        }
        found.push(fix);
    }
    let endings = mounts
        .iter()
        .take(MOUNTS_MAX)
        .filter_map(|holder| ending(holder, target));
    found.extend(endings.map(|fix| Fix {
        text: format!("or {}", fix.text),
        ..fix
    }));
    if let Some(private) = mounts
        .iter()
        .find(|holder| holder.through == Through::PrivateCopy && holder.process.is_some())
    {
        found.extend(mount_point(private));
        found.push(Fix::change(
            "to keep it from happening again, let its mounts be slaves (HostToContainer, rslave): an idle copy then goes \
             with the umount",
        ));
    }
    found.extend(then(operation, target));
    if reason == Reason::OverlayInUse {
        found.push(Fix::change(
            "no upper or work directory may be that of two overlays at a time",
        ));
    }
    if found.is_empty() {
        found.extend(nobody(target));
    }
    found
}

/// Where nothing was found: what tells more.
fn nobody(target: &Target) -> Vec<Fix> {
    let path = target.path.as_bytes();
    let look = |text: &str, command: Command| Some(Fix::look(text, command.path(path)?));
    let mut found = Vec::new();
    if path.starts_with(b"/dev/") {
        found.extend(look(
            "see who has the device open",
            Command::new(&["fuser", "-v"]),
        ));
        found.extend(look("and what is stacked on it", Command::new(&["lsblk"])));
    } else {
        // `$1` is the path, which is no pattern for it.
        let namespaces = Command::new(&["sh", "-c", "grep -lF -e \"$1\" /proc/[0-9]*/mountinfo", "sh"]);
        found.extend(look("see which processes have a mount there", namespaces));
    }
    found.push(Fix::look(
        "look for leaked, detached and copied mounts",
        Command::new(&["ebusy", "audit"]),
    ));
    found
}

/// What is to be done once nobody has the device, and what helps as little as trying again.
fn then(operation: Operation, target: &Target) -> Vec<Fix> {
    let path = target.path.as_bytes();
    if operation == Operation::LoopClear {
        vec![Fix::change(format!(
            "then the kernel frees {} by itself; losetup -d once more changes nothing",
            name_in_text(path)
        ))]
    } else if operation == Operation::DmRemove {
        let remove = |words: &[&'static str]| Command::new(&["dmsetup", "remove"]).words(words).path(path);
        vec![
            Fix::command(
                format!("then remove {} once more", name_in_text(path)),
                remove(&[]),
                "",
            ),
            Fix::command(
                "or now, for the kernel to remove it when the last one closes it",
                remove(&["--deferred"]),
                "",
            ),
            Fix::change(
                "dmsetup remove --force does not help: it only makes all I/O of those who have it fail",
            ),
        ]
    } else {
        Vec::new()
    }
}

/// A mount has to go, where it is.
fn take_away(holder: &Holder) -> Fix {
    let Some(seen) = &holder.seen_as else {
        return Fix::change(match holder.mount_namespace {
            Some(namespace) => format!(
                "find what keeps mnt ns {namespace}, which has no process: a bind mount of it (findmnt -t nsfs), or a \
                 descriptor (lsns -t mnt)"
            ),
            None => "close what is open on the detached mount; one that an overlay keeps goes with that"
                .to_owned(),
        });
    };
    let seen = seen.as_bytes();
    let name = name_in_text(seen);
    match (&holder.process, holder.through) {
        (_, Through::Target) => Fix::command(
            format!("unmount {name}"),
            Command::new(&["umount"]).path(seen),
            "",
        ),
        (Some(process), _) => Fix::command(
            format!(
                "take away the copy that {} has",
                name_in_text(process.comm.as_bytes())
            ),
            umount_in(process.pid, false, &[seen]),
            "runs no program of its image",
        ),
        (None, _) => Fix::change(format!("unmount {name} in its mount namespace")),
    }
}

/// Private copies go with their mount point (Linux 3.19 on, fs/namespace.c `detach_mounts`).
fn mount_point(holder: &Holder) -> Option<Fix> {
    let seen = holder.seen_as.as_ref()?.as_bytes();
    Some(Fix::command(
        format!(
            "or, if nothing is mounted at {} on the host and it is the same directory, remove it: that takes every copy \
             away",
            name_in_text(seen)
        ),
        Command::new(&["rmdir"]).path(seen),
        "",
    ))
}

/// Who would refuse the umount of what is on top.
fn users(holders: &[Holder]) -> Vec<Fix> {
    holders
        .iter()
        .filter(|holder| holder.kind == Kind::ChildMount)
        .filter_map(|holder| {
            let first = holder.shared_with.first()?;
            let who = Command::new(&["ebusy", "who"]).path(holder.seen_as.as_ref()?.as_bytes());
            let text = format!(
                "that umount will be refused in turn because of {} {}",
                name_in_text(first.comm.as_bytes()),
                first.pid
            );
            Some(match who {
                Some(who) => Fix::look(text, who),
                None => Fix::change(text),
            })
        })
        .take(MOUNTS_MAX)
        .collect()
}

/// Devices on top of the device.
fn devices_above(holders: &[Holder]) -> Vec<Fix> {
    holders
        .iter()
        .filter(|holder| holder.kind == Kind::Kernel && holder.process.is_none())
        .filter_map(|holder| {
            let by = holder.held_by.as_ref()?.as_bytes();
            let name = name_in_text(by);
            Some(if by == b"swap" {
                let path = holder.path.as_bytes();
                Fix::command(
                    format!("stop swapping to {}", name_in_text(path)),
                    Command::new(&["swapoff"]).path(path),
                    "needs memory for what is in there",
                )
            } else if by.starts_with(b"/dev/dm-") {
                let remove = Command::new(&["dmsetup", "remove"]).path(by);
                Fix::command(format!("remove {name}, once nothing uses that"), remove, "")
            } else if by.starts_with(b"/dev/loop") {
                let detach = Command::new(&["losetup", "-d"]).path(by);
                Fix::command(format!("detach {name}, once nothing uses that"), detach, "")
            } else {
                Fix::change(format!("take down {name}, once nothing uses that"))
            })
        })
        .take(MOUNTS_MAX)
        .collect()
}
