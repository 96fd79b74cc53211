//! What to do about a holder's own copy of the mount.

use super::{
    Step,
    owners::{Owner, OwnerKind},
};
use crate::{
    model::{Holder, Process, Target, Through},
    render::{quote::shell, sanitize::escape},
};

/// In a propagated copy, it is enough to take the copy away.
pub(super) fn detach(owner: &Owner<'_>, target: &Target) -> Option<Step> {
    let mut copies = owner
        .holders
        .iter()
        .filter(|(holder, _)| holder.through == Through::PropagatedCopy);
    let (holder, process, mountpoint) =
        copies.find_map(|(holder, process)| Some((holder, process, mountpoint_seen(holder)?)))?;
    let propagation = holder.propagation.as_deref()?;
    if !propagation.contains("slave") {
        // Peers: what is unmounted in one is unmounted in all.
        return (propagation == "shared").then(|| {
            let name = escape(process.comm.as_bytes());
            Step::note(format!(
                "no umount in the mount namespace of {name}: its copy is shared, the target would go with it"
            ))
        });
    }
    let path = shell(&mountpoint);
    let kept = "takes its copy away; its files stay open";
    if holder.mount_namespace.is_some() && holder.mount_namespace == target.mount_namespace {
        let command = format!("umount -l {path}");
        return Some(Step::command("or leave it running", command, kept));
    }
    Some(Step::command(
        "or leave it running",
        in_namespace(process, &path),
        &format!("{kept}; its image needs no umount"),
    ))
}

/// The host's own umount, in the mount namespace of a process: its image may have none. umount reads the table of
/// mounts in that namespace's /proc, where it finds itself only as a member of that pid namespace.
fn in_namespace(process: &Process, path: &str) -> String {
    let pid = process.pid;
    format!("nsenter -t {pid} -p umount -N {pid} -l {path}")
}

/// What would keep it from happening again.
pub(super) fn narrow(owner: &Owner<'_>) -> Option<Step> {
    let OwnerKind::Container(container) = owner.kind else {
        return None;
    };
    let copy = |(holder, _): &&(&Holder, &Process)| {
        holder.through == Through::PropagatedCopy
            && holder
                .propagation
                .as_deref()
                .is_some_and(|propagation| propagation.contains("slave"))
    };
    owner.holders.iter().find(copy)?;
    container.pod.as_ref()?;
    Some(Step::change(
        "to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block, not the cure",
    ))
}

/// Where the holder sees the mount: its view of the file without the part inside the mount.
pub(in crate::render) fn mountpoint_seen(holder: &Holder) -> Option<Vec<u8>> {
    let seen = holder.seen_as.as_ref()?.as_bytes();
    let inside = holder.path.as_bytes();
    let mountpoint = if inside == b"/" {
        seen
    } else {
        seen.strip_suffix(inside)?
    };
    match mountpoint {
        [] => Some(b"/".to_vec()),
        [b'/', ..] => Some(mountpoint.to_vec()),
        _ => None,
    }
}
