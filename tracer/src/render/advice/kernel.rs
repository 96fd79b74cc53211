//! What frees references that no process has.

use super::{MAX_OWNERS, Step};
use crate::{
    model::{Holder, Kind, Target, Text, UNIX_GARBAGE},
    render::{quote::shell, sanitize::escape},
};

/// A mount on top has to go first.
pub(super) fn child_mounts(holders: &[Holder], target: &Target) -> Vec<Step> {
    let children = holders
        .iter()
        .filter(|holder| holder.kind == Kind::ChildMount)
        .take(MAX_OWNERS);
    let mut steps = Vec::new();
    for holder in children {
        steps.extend(users(holder));
        let seen = holder.seen_as.as_ref().map(|seen| seen.as_bytes().to_vec());
        let path = seen.unwrap_or_else(|| joined(target.path.as_bytes(), holder.path.as_bytes()));
        let command = format!("umount {}", shell(&path));
        steps.push(Step {
            text: format!("{command} first: it is mounted on top"),
            ..Step::command("", command, "whoever uses that mount")
        });
    }
    steps
}

/// Whoever uses the mount on top would refuse its umount.
fn users(holder: &Holder) -> Option<Step> {
    let pids: Vec<String> = holder
        .shared_with
        .iter()
        .filter(|sharer| sharer.pid > 1)
        .take(MAX_OWNERS)
        .map(|sharer| sharer.pid.to_string())
        .collect();
    let first = holder.shared_with.first()?;
    let comm = escape(first.comm.as_bytes());
    let text = format!("have {comm} leave the mount on top, or");
    (!pids.is_empty()).then(|| Step::command(&text, format!("kill {}", pids.join(" ")), ""))
}

/// What no process has.
pub(super) fn held(holders: &[Holder]) -> Vec<Step> {
    let mut found: Vec<Step> = holders
        .iter()
        .filter(|holder| holder.process.is_none())
        .filter_map(release)
        .collect();
    found.dedup();
    found.truncate(MAX_OWNERS);
    found
}

fn joined(mountpoint: &[u8], path: &[u8]) -> Vec<u8> {
    let mountpoint = mountpoint.strip_suffix(b"/").unwrap_or(mountpoint);
    let path = if path == b"/" { &b""[..] } else { path };
    [mountpoint, path].concat()
}

fn release(holder: &Holder) -> Option<Step> {
    let by = holder.held_by.as_ref();
    let seen = holder.seen_as.as_ref().unwrap_or(&holder.path);
    Some(match holder.kind {
        Kind::Loop => match by {
            Some(device) => Step::command(
                "detach the loop device",
                format!("losetup -d {}", shell(device.as_bytes())),
                "if it is in use it goes when that ends: lsblk",
            ),
            None => Step::change("detach the loop device: losetup -l shows it"),
        },
        Kind::Swap => Step::command(
            "stop swapping to it",
            format!("swapoff {}", shell(seen.as_bytes())),
            "what is swapped out goes back into memory",
        ),
        Kind::Uprobe => match by.map(Text::as_bytes) {
            Some(event) if event.contains(&b'/') => uprobe(event),
            _ => Step::change("end the tracer that set the uprobe"),
        },
        Kind::BinfmtMisc => {
            let name = by.map_or(&b"NAME"[..], Text::as_bytes);
            let entry = shell(&[&b"/proc/sys/fs/binfmt_misc/"[..], name].concat());
            Step::command(
                "remove the entry",
                format!("echo -1 > {entry}"),
                "its programs do not start until it is back",
            )
        }
        // Each pid namespace has its own.
        Kind::Accounting => Step::command(
            "turn process accounting off",
            by.map_or_else(
                || "accton off".to_owned(),
                |namespace| format!("nsenter --pid={} accton off", shell(namespace.as_bytes())),
            ),
            "nothing is accounted until it is turned on again",
        ),
        Kind::NfsExport => {
            let client = by.map_or(&b"CLIENT"[..], Text::as_bytes);
            let export = shell(&[client, b":", seen.as_bytes()].concat());
            Step::command(
                "withdraw the export",
                format!("exportfs -u {export}; exportfs -f"),
                "its clients get stale handles",
            )
        }
        Kind::Deferred if by.is_some_and(|by| by.as_bytes() == UNIX_GARBAGE.as_bytes()) => Step::command(
            // KERNEL.md 4.3: glibc asks nscd by a UNIX socket, whether that runs or not.
            "close any UNIX socket, for then the kernel drops it",
            "getent passwd root".to_owned(),
            "nothing; killing does not help",
        ),
        Kind::Deferred => Step::wait(
            "wait and try again: the kernel drops it by itself; no process has it, so killing does not help",
        ),
        Kind::UnixSocket | Kind::ScmRights => {
            Step::change("end the process at the other end of the socket: no process has this end")
        }
        Kind::Kernel => Step::change(format!(
            "end what in the kernel uses it{}: no command is known for that",
            by.map_or_else(String::new, |by| format!(", {}", escape(by.as_bytes())))
        )),
        _ => return None,
    })
}

/// An event can be removed only while it is off.
fn uprobe(event: &[u8]) -> Step {
    let tracing = "/sys/kernel/tracing";
    let enable = shell(&[tracing.as_bytes(), b"/events/", event, b"/enable"].concat());
    let remove = shell(&[b"-:", event].concat());
    Step::command(
        "remove the uprobe",
        format!("echo 0 > {enable}; echo {remove} >> {tracing}/uprobe_events"),
        "whoever traces with it",
    )
}
