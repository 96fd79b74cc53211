//! What to do about the findings of an audit. Nothing of it is done by ebusy itself.

use super::{
    copies::{umount_in, with_paths},
    detached::of_detached as of_detached_mount,
    owners::restart,
    umount::of_holders,
};
use crate::{
    model::{Audit, Container, Detached, Fix, Group, KeptNamespace, Leaked, Process, Target, Workload},
    text::{Command, name_in_text},
};

/// Commands for one workload at the most.
const COMMANDS_MAX: usize = 4;

/// Fills in the advice of every finding.
pub fn advise_audit(audit: &mut Audit) {
    for now in &mut audit.now {
        now.fixes = of_holders(&now.holders, &[], &now.target);
        if now.stuck && now.holders.is_empty() {
            now.fixes.push(Fix::command(
                "the runtime tries again by itself; if it does not, and nothing is unexplained, unmount it",
                umount(&[now.target.path.as_bytes()]),
                "",
            ));
        }
    }
    for group in &mut audit.can_pin {
        group.fixes = pin(group);
    }
    for group in &mut audit.can_leak {
        group.fixes = leak(group);
    }
    for leaked in &mut audit.leaked {
        leaked.fixes = of_leaked(leaked);
    }
    for detached in &mut audit.detached {
        detached.fixes = of_detached(detached);
    }
    for namespace in &mut audit.namespaces {
        namespace.fixes = of_namespace(namespace);
    }
}

fn container(workload: &Workload) -> Option<&Container> {
    workload.process.as_ref()?.container.as_ref()
}

/// The umount of those mounts whose paths can be typed.
fn umount(paths: &[&[u8]]) -> Option<Command> {
    with_paths(&Command::new(&["umount"]), paths)
}

/// The same in the namespace of a process.
fn take_away(process: &Process, paths: &[&[u8]], lazy: bool, text: &str) -> Option<Fix> {
    let command = umount_in(process.pid, lazy, paths)?;
    Some(Fix::command(text, Some(command), "runs no program of its image"))
}

fn paths(group: &Group) -> Vec<&[u8]> {
    let copies = group.copies.iter().take(COMMANDS_MAX);
    copies.map(|copy| copy.path.as_bytes()).collect()
}

fn pin(group: &Group) -> Vec<Fix> {
    let mut found = Vec::new();
    if let Some(used) = group.copies.iter().find(|copy| !copy.holders.is_empty()) {
        let text = "have it close what is open there, which refuses the umount now";
        let who = Command::new(&["ebusy", "who"]).path(used.target.path.as_bytes());
        found.push(match who {
            Some(who) => Fix::look(format!("{text}; all of it"), who),
            None => Fix::change(text),
        });
    }
    if group.workload.same_namespace {
        let text = "if nothing needs the second mount, unmount it";
        found.push(Fix::command(text, umount(&paths(group)), ""));
        return found;
    }
    match (container(&group.workload), &group.workload.process) {
        (Some(_), _) => found.push(Fix::change(
            "narrow its hostPath to the directories that it reads, so that container mounts are not below it; \
             HostToContainer is why its files block, not the cure: without it the copies leak",
        )),
        (None, Some(process)) => {
            found.push(Fix::change(
                "have it open nothing below container mounts: idle copies go with the umount, open ones refuse it",
            ));
            found.extend(take_away(
                process,
                &paths(group),
                true,
                "or take its copies away",
            ));
        }
        (None, None) => found.push(Fix::change("end what keeps its namespace (KEPT)")),
    }
    found
}

fn leak(group: &Group) -> Vec<Fix> {
    let Some(process) = &group.workload.process else {
        return vec![Fix::change(
            "end what keeps its namespace (KEPT): that frees them",
        )];
    };
    let mut found = vec![Fix::change(if process.container.is_some() {
        "narrow its hostPath; or set mountPropagation: HostToContainer (docker, podman: bind-propagation=rslave), \
         and idle copies go with the umount; takes a new container"
    } else {
        "have its namespace receive umounts (systemd: MountFlags=slave; unshare --propagation slave), and idle \
         copies go with the umount; takes a new start"
    })];
    found.extend(take_away(
        process,
        &paths(group),
        group.in_use > 0,
        "for now, take its copies away",
    ));
    found.extend(restarting(process, "or start it anew"));
    found
}

fn restarting(process: &Process, text: &str) -> Option<Fix> {
    Some(Fix::command(text, Some(restart(process)?), "interrupts it"))
}

fn of_leaked(leaked: &Leaked) -> Vec<Fix> {
    let mut found = Vec::new();
    let used = leaked.places.iter().flat_map(|place| &place.holders).next();
    if used.is_some() {
        found.push(Fix::change("close what is open there first"));
    }
    let process = |workload: &Option<Workload>| workload.as_ref().and_then(|of| of.process.clone());
    let mut here: Vec<&[u8]> = leaked
        .places
        .iter()
        .filter(|place| process(&place.workload).is_none())
        .map(|place| place.mount.path.as_bytes())
        .collect();
    here.truncate(COMMANDS_MAX);
    if !here.is_empty() {
        let text = "make sure that nothing is about to use it, then unmount it";
        found.push(Fix::command(text, umount(&here), ""));
    }
    for place in &leaked.places {
        let Some(process) = process(&place.workload) else {
            continue;
        };
        let text = format!(
            "take away the copy that {} has",
            name_in_text(process.comm.as_bytes())
        );
        found.extend(take_away(&process, &[place.mount.path.as_bytes()], false, &text));
        found.extend(restarting(&process, "or start it anew"));
    }
    found.truncate(2 * COMMANDS_MAX);
    found
}

fn of_detached(detached: &Detached) -> Vec<Fix> {
    let target = Target {
        fs_type: detached.fs_type.clone(),
        ..Target::default()
    };
    of_detached_mount(&detached.holders, &target)
}

fn of_namespace(namespace: &KeptNamespace) -> Vec<Fix> {
    let mut found = Vec::new();
    for keeper in namespace.kept_by.iter().take(COMMANDS_MAX) {
        match (&keeper.process, &keeper.path) {
            (Some(process), _) => {
                let kill = || Command::new(&["kill"]).number(process.pid);
                let end = restart(process).unwrap_or_else(kill);
                found.push(Fix::command(
                    format!(
                        "have {} close the descriptor, or end it",
                        name_in_text(process.comm.as_bytes())
                    ),
                    Some(end),
                    "interrupts it",
                ));
            }
            (None, Some(path)) => found.push(Fix::command(
                format!("unmount {}", name_in_text(path.as_bytes())),
                umount(&[path.as_bytes()]),
                "",
            )),
            (None, None) => {}
        }
    }
    found
}
