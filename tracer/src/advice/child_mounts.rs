//! What to do about mounts on top of a target: they have to go first.

use super::owners::MAX_OWNERS;
use crate::{
    model::{Fix, Holder, Kind, Target},
    text::{Command, name_in_text},
};

/// Mounts that one command unmounts.
const PATHS_MAX: usize = 32;

/// Where there are more mounts on top, the target is unmounted with all of them.
const ONE_BY_ONE_MAX: usize = 128;

/// Takes away what is mounted on top, and has those let go who use that.
pub(super) fn unmounted(holders: &[Holder], target: &Target) -> Vec<Fix> {
    let children: Vec<&Holder> = holders
        .iter()
        .filter(|holder| holder.kind == Kind::ChildMount)
        .collect();
    let mut fixes: Vec<Fix> = children
        .iter()
        .filter_map(|child| users(child))
        .take(MAX_OWNERS)
        .collect();
    let along = || children.iter().filter_map(|child| child.takes_along);
    if along().any(|along| along.peers > 0) {
        // Without this, the original goes with the copy.
        let slave = Command::new(&["mount", "--make-rslave"]).path(target.path.as_bytes());
        let text =
            "make it a slave first: it is a peer of another mount, which would lose its mounts as well";
        fixes.push(Fix::command(text, slave, ""));
    }
    let umount = if along().any(|along| along.below > 0) {
        Command::new(&["umount", "-R"])
    } else {
        Command::new(&["umount"])
    };
    if children.len() > ONE_BY_ONE_MAX {
        fixes.push(Fix::command(
            format!(
                "unmount it with the {} mounts that are on top of it",
                children.len()
            ),
            Command::new(&["umount", "-R"]).path(target.path.as_bytes()),
            "whoever uses those mounts",
        ));
        return fixes;
    }
    let (typed, others): (Vec<_>, Vec<_>) = children
        .into_iter()
        .map(|child| (child, mountpoint(child, target)))
        .partition(|(_, path)| umount.clone().path(path).is_some());
    for part in typed.chunks(PATHS_MAX) {
        let command = part
            .iter()
            .try_fold(umount.clone(), |command, (_, path)| command.path(path));
        let (text, interrupts) = match part {
            [(child, path)] => (alone(child, path), "whoever uses that mount"),
            part => (
                format!("unmount the {} mounts that are on top of it first", part.len()),
                "whoever uses those mounts",
            ),
        };
        fixes.push(Fix::command(text, command, interrupts));
    }
    for (child, path) in others.into_iter().take(MAX_OWNERS) {
        let name = name_in_text(&path);
        let by_number = child.mount_id.map_or_else(String::new, |id| {
            format!("; its name cannot be typed: it is mount {id} in /proc/self/mountinfo")
        });
        fixes.push(Fix::change(format!(
            "unmount {name} first, which is mounted on top{by_number}"
        )));
    }
    fixes
}

fn alone(child: &Holder, path: &[u8]) -> String {
    let with = match child.takes_along.map_or(0, |along| along.below) {
        0 => String::new(),
        1 => ", with the mount below it".to_owned(),
        more => format!(", with the {more} mounts below it"),
    };
    format!(
        "unmount {} first, which is mounted on top{with}",
        name_in_text(path)
    )
}

fn mountpoint(child: &Holder, target: &Target) -> Vec<u8> {
    let seen = child.seen_as.as_ref().map(|seen| seen.as_bytes().to_vec());
    seen.unwrap_or_else(|| joined(target.path.as_bytes(), child.path.as_bytes()))
}

fn joined(mountpoint: &[u8], path: &[u8]) -> Vec<u8> {
    let mountpoint = mountpoint.strip_suffix(b"/").unwrap_or(mountpoint);
    let path = if path == b"/" { &b""[..] } else { path };
    [mountpoint, path].concat()
}

/// Whoever uses the mount on top would refuse its umount.
fn users(holder: &Holder) -> Option<Fix> {
    let first = holder.shared_with.first()?;
    let pids: Vec<u32> = holder
        .shared_with
        .iter()
        .map(|sharer| sharer.pid)
        .filter(|pid| *pid > 1)
        .take(MAX_OWNERS)
        .collect();
    let text = format!(
        "have {} leave the mount on top, or end it",
        name_in_text(first.comm.as_bytes())
    );
    (!pids.is_empty()).then(|| Fix::command(text, Some(Command::new(&["kill"]).numbers(&pids)), ""))
}
