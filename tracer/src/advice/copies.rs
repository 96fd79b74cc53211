//! What to do about a holder's own copy of the mount.

use super::owners::{Owner, OwnerKind};
use crate::{
    model::{Fix, Holder, Process, Propagation, Target, Through},
    text::{Command, name_in_text},
};

/// In a propagated copy, it is enough to take the copy away.
pub(super) fn detach(owner: &Owner<'_>, target: &Target) -> Option<Fix> {
    let mut copies = owner
        .holders
        .iter()
        .filter(|(holder, _)| holder.through == Through::PropagatedCopy);
    let (holder, process, mountpoint) =
        copies.find_map(|(holder, process)| Some((holder, process, mountpoint_seen(holder)?)))?;
    let propagation = holder.propagation?;
    if !propagation.has_master() {
        // Peers: what is unmounted in one is unmounted in all.
        return (propagation == Propagation::Shared).then(|| {
            let name = name_in_text(process.comm.as_bytes());
            Fix::note(format!(
                "no umount in the mount namespace of {name}: its copy is shared, the target would go with it"
            ))
        });
    }
    let own = holder.mount_namespace.is_some() && holder.mount_namespace == target.mount_namespace;
    let (command, kept) = if own {
        (
            Command::new(&["umount", "-l"]).path(&mountpoint),
            "its files stay open",
        )
    } else {
        (
            umount_in(process.pid, true, &[&mountpoint]),
            "its files stay open; runs no program of its image",
        )
    };
    let text = "or leave it running, and take its copy away";
    command.map(|command| Fix::command(text, Some(command), kept))
}

/// The host's own umount for a mount that is in the namespace of a process. Its image is not trusted: nothing of it may
/// run as root of the host, so that the namespace is entered by umount itself (`-N`, util-linux 2.33 on), and only for
/// the system call; helpers for file system types (`-i`) and the record below `/run/mount` (`-n`) are left out. umount
/// reads the table of mounts in that namespace's `/proc`, where it finds itself only as a member of its pid namespace.
///
/// Paths that cannot be typed are left out; `None` where none is left.
pub(super) fn umount_in(pid: u32, lazy: bool, paths: &[&[u8]]) -> Option<Command> {
    let command = Command::new(&["nsenter", "-t"]).number(pid);
    let command = command.words(&["-p", "umount", "-i", "-n", "-N"]).number(pid);
    let command = if lazy { command.words(&["-l"]) } else { command };
    with_paths(&command, paths)
}

/// A command with those paths that can be typed.
pub(super) fn with_paths(command: &Command, paths: &[&[u8]]) -> Option<Command> {
    let all = paths.iter().fold(command.clone(), |command, path| {
        command.clone().path(path).unwrap_or(command)
    });
    (all != *command).then_some(all)
}

/// What would keep it from happening again.
pub(super) fn narrow(owner: &Owner<'_>) -> Option<Fix> {
    let OwnerKind::Container(container) = owner.kind else {
        return None;
    };
    let copy = |(holder, _): &&(&Holder, &Process)| {
        holder.through == Through::PropagatedCopy && holder.propagation.is_some_and(Propagation::has_master)
    };
    owner.holders.iter().find(copy)?;
    container.pod.as_ref()?;
    Some(Fix::change(
        "to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block, not the cure",
    ))
}

/// Where the holder sees the mount: its view of the file without the part inside the mount.
pub(crate) fn mountpoint_seen(holder: &Holder) -> Option<Vec<u8>> {
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
