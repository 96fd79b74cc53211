//! What frees references that no process has.

use super::owners::MAX_OWNERS;
use crate::{
    model::{Fix, Holder, Kind, Text, UNIX_GARBAGE},
    text::{Command, name_in_text},
};

/// What no process has.
pub(super) fn held(holders: &[Holder]) -> Vec<Fix> {
    let mut found: Vec<Fix> = holders
        .iter()
        .filter(|holder| holder.process.is_none())
        .filter_map(release)
        .collect();
    found.dedup();
    found.truncate(MAX_OWNERS);
    found
}

/// A script of ebusy's own, to which the words of others are arguments.
fn script(text: &'static str) -> Command {
    Command::new(&["sh", "-c", text, "sh"])
}

fn release(holder: &Holder) -> Option<Fix> {
    let by = holder.held_by.as_ref().map(Text::as_bytes);
    let seen = holder.seen_as.as_ref().unwrap_or(&holder.path).as_bytes();
    Some(match holder.kind {
        Kind::Loop => match by {
            Some(device) => Fix::command(
                format!("detach the loop device {}", name_in_text(device)),
                Command::new(&["losetup", "-d"]).path(device),
                "if it is in use it goes when that ends, see lsblk",
            ),
            None => Fix::look(
                "detach the loop device; find it first",
                Command::new(&["losetup", "-l"]),
            ),
        },
        Kind::Swap => Fix::command(
            format!("stop swapping to {}", name_in_text(seen)),
            Command::new(&["swapoff"]).path(seen),
            "what is swapped out goes back into memory",
        ),
        Kind::Uprobe => match by {
            Some(event) if event.contains(&b'/') => uprobe(event),
            _ => Fix::change("end the tracer that set the uprobe"),
        },
        Kind::BinfmtMisc => binfmt(by),
        // Each pid namespace has its own.
        Kind::Accounting => Fix::command(
            "turn process accounting off",
            match by {
                Some(namespace) => Command::new(&["nsenter"])
                    .joined("--pid=", namespace)
                    .map(|command| command.words(&["accton", "off"])),
                None => Some(Command::new(&["accton", "off"])),
            },
            "nothing is accounted until it is turned on again",
        ),
        Kind::NfsExport => export(by, seen),
        Kind::Deferred if by == Some(UNIX_GARBAGE.as_bytes()) => Fix::command(
            // Kernel fact 15: glibc asks nscd by a UNIX socket, whether that runs or not.
            "close any UNIX socket, for then the kernel drops it",
            Some(Command::new(&["getent", "passwd", "root"])),
            "nothing; killing does not help",
        ),
        Kind::Deferred => Fix::wait(
            "wait and try again: the kernel drops it by itself; no process has it, so killing does not help",
        ),
        Kind::UnixSocket | Kind::ScmRights => {
            Fix::change("end the process at the other end of the socket: no process has this end")
        }
        Kind::Kernel => Fix::change(format!(
            "end what in the kernel uses it{}: no command is known for that",
            by.map_or_else(String::new, |by| format!(", {}", name_in_text(by)))
        )),
        _ => return None,
    })
}

/// The name of an entry is whatever was registered.
fn binfmt(name: Option<&[u8]>) -> Fix {
    let Some(name) = name else {
        return Fix::change("remove the entry of binfmt_misc that names it");
    };
    let entry = [&b"/proc/sys/fs/binfmt_misc/"[..], name].concat();
    Fix::command(
        format!("remove the entry {}", name_in_text(name)),
        script("echo -1 > \"$1\"").path(&entry),
        "its programs do not start until it is back",
    )
}

fn export(client: Option<&[u8]>, path: &[u8]) -> Fix {
    let withdraw = |client: &[u8]| {
        let export = [client, b":", path].concat();
        script("exportfs -u \"$1\"; exportfs -f").name(&export)
    };
    Fix::command(
        format!("withdraw the export of {}", name_in_text(path)),
        client.and_then(withdraw),
        "its clients get stale handles",
    )
}

/// An event can be removed only while it is off.
fn uprobe(event: &[u8]) -> Fix {
    let remove = "cd /sys/kernel/tracing && echo 0 > \"events/$1/enable\"; echo \"-:$1\" >> uprobe_events";
    Fix::command(
        format!("remove the uprobe {}", name_in_text(event)),
        script(remove).name(event),
        "whoever traces with it",
    )
}
