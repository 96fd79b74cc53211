//! What to do about what keeps the target of a refused rmdir, mount, remount and the like. Nothing of it is done by
//! ebusy itself.

use super::{
    advice::{advise, ending},
    quote::shell,
    sanitize::escape,
};
use crate::model::{Holder, Kind, Operation, Reason, Target, Through};

/// Mounts that are told one by one.
const MOUNTS_MAX: usize = 4;

/// What frees the target of an operation of that name, least harmful first.
#[must_use]
pub fn advise_operation(operation: &str, reason: Reason, holders: &[Holder], target: &Target) -> Vec<String> {
    let (mounts, others): (Vec<&Holder>, Vec<&Holder>) =
        holders.iter().partition(|holder| holder.kind == Kind::Mount);
    let others: Vec<Holder> = others.into_iter().cloned().collect();
    let mut advice = match reason {
        Reason::MountedThere => vec!["it is mounted there already, so there may be nothing to do".to_owned()],
        _ => Vec::new(),
    };
    advice.extend(devices_above(&others));
    let processes: Vec<Holder> = others
        .iter()
        .filter(|holder| holder.kind != Kind::Kernel || holder.process.is_some())
        .cloned()
        .collect();
    advice.extend(advise(&processes, target));
    advice.extend(users(&others));
    for (index, holder) in mounts.iter().take(MOUNTS_MAX).enumerate() {
        let and = if index == 0 { "" } else { "and " };
        advice.push(format!("{and}{}", take_away(holder)));
    }
    advice.extend(
        mounts
            .iter()
            .take(MOUNTS_MAX)
            .filter_map(|holder| ending(holder, target))
            .map(|text| format!("or {text}")),
    );
    if let Some(private) = mounts
        .iter()
        .find(|holder| holder.through == Through::PrivateCopy && holder.process.is_some())
    {
        advice.extend(mount_point(private));
        advice.push(
            "to keep it from happening again, let its mounts be slaves (HostToContainer, rslave): an idle copy then goes \
             with the umount"
                .to_owned(),
        );
    }
    advice.extend(then(operation, target));
    if reason == Reason::OverlayInUse {
        advice.push("no upper or work directory may be that of two overlays at a time".to_owned());
    }
    if advice.is_empty() {
        advice.extend(nobody(target));
    }
    advice
}

/// Where nothing was found: what tells more.
fn nobody(target: &Target) -> Vec<String> {
    let path = target.path.as_bytes();
    let word = shell(path);
    let mut advice = Vec::new();
    if path.starts_with(b"/dev/") {
        advice.push(format!(
            "see who has the device open, and what is stacked on it: fuser -v {word}; lsblk {word}"
        ));
    } else if path.starts_with(b"/") {
        advice.push(format!(
            "see which mount namespaces have a mount there: grep -lF {word} /proc/[0-9]*/mountinfo"
        ));
    }
    advice.push("look for leaked, detached and copied mounts: ebusy audit".to_owned());
    advice
}

/// What is to be done once nobody has the device, and what helps as little as trying again.
fn then(operation: &str, target: &Target) -> Vec<String> {
    let word = shell(target.path.as_bytes());
    if operation == Operation::LoopClear.name() {
        vec![format!(
            "then the kernel frees {word} by itself; losetup -d once more changes nothing"
        )]
    } else if operation == Operation::DmRemove.name() {
        vec![
            format!(
                "then dmsetup remove {word} once more; or now, for the kernel to remove it when the last one closes it: \
                 dmsetup remove --deferred {word}"
            ),
            "dmsetup remove --force does not help: it only makes all I/O of those who have it fail"
                .to_owned(),
        ]
    } else {
        Vec::new()
    }
}

/// A mount has to go, where it is.
fn take_away(holder: &Holder) -> String {
    let Some(seen) = &holder.seen_as else {
        return match holder.mount_namespace {
            Some(namespace) => format!(
                "find what keeps mnt ns {namespace}, which has no process: a bind mount of it (findmnt -t nsfs), or a \
                 descriptor (lsns -t mnt)"
            ),
            None => "close what is open on the detached mount; one that an overlay keeps goes with that"
                .to_owned(),
        };
    };
    let path = shell(seen.as_bytes());
    match (&holder.process, holder.through) {
        (_, Through::Target) => format!("umount {path}"),
        (Some(process), _) => format!(
            "nsenter -t {} -m umount {path} (takes its copy away; needs umount in its image)",
            process.pid
        ),
        (None, _) => format!("umount {path} in its mount namespace"),
    }
}

/// Private copies go with their mount point (Linux 3.19 on, fs/namespace.c `detach_mounts`).
fn mount_point(holder: &Holder) -> Option<String> {
    let path = shell(holder.seen_as.as_ref()?.as_bytes());
    Some(format!(
        "or, if nothing is mounted there on the host and it is the same directory: rmdir {path} on the host takes every \
         copy away"
    ))
}

/// Who would refuse the umount of what is on top.
fn users(holders: &[Holder]) -> Vec<String> {
    holders
        .iter()
        .filter(|holder| holder.kind == Kind::ChildMount)
        .filter_map(|holder| {
            let first = holder.shared_with.first()?;
            Some(format!(
                "that umount will be refused in turn because of {} {}: ebusy who {}",
                escape(first.comm.as_bytes()),
                first.pid,
                shell(holder.seen_as.as_ref()?.as_bytes())
            ))
        })
        .take(MOUNTS_MAX)
        .collect()
}

/// Devices on top of the device.
fn devices_above(holders: &[Holder]) -> Vec<String> {
    holders
        .iter()
        .filter(|holder| holder.kind == Kind::Kernel && holder.process.is_none())
        .filter_map(|holder| {
            let by = holder.held_by.as_ref()?.as_bytes();
            let word = shell(by);
            Some(if by == b"swap" {
                format!(
                    "swapoff {} (needs memory for what is in there)",
                    shell(holder.path.as_bytes())
                )
            } else if by.starts_with(b"/dev/dm-") {
                format!("dmsetup remove {word}, once nothing uses that")
            } else if by.starts_with(b"/dev/loop") {
                format!("losetup -d {word}, once nothing uses that")
            } else {
                format!("take down {word}, once nothing uses that")
            })
        })
        .take(MOUNTS_MAX)
        .collect()
}
