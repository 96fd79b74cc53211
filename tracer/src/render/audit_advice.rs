//! What to do about the findings of an audit. Nothing of it is done by ebusy itself.

use super::{
    advice::advise,
    names,
    quote::{is_kubernetes_name, is_plain_name, shell},
};
use crate::model::{
    Audit, Container, Detached, Group, Holder, KeptNamespace, Leaked, Process, Target, Workload,
};

/// Commands for one workload at the most.
const COMMANDS_MAX: usize = 4;

/// Fills in the advice of every finding.
pub fn advise_audit(audit: &mut Audit) {
    for now in &mut audit.now {
        now.advice = advise(&now.holders, &now.target);
        if now.stuck && now.holders.is_empty() {
            let path = shell(now.target.path.as_bytes());
            now.advice.push(format!(
                "the runtime tries again by itself; if it does not, and nothing is unexplained: umount {path}"
            ));
        }
    }
    for group in &mut audit.can_pin {
        group.advice = pin(group);
    }
    for group in &mut audit.can_leak {
        group.advice = leak(group);
    }
    for leaked in &mut audit.leaked {
        leaked.advice = of_leaked(leaked);
    }
    for detached in &mut audit.detached {
        detached.advice = of_detached(detached);
    }
    for namespace in &mut audit.namespaces {
        namespace.advice = of_namespace(namespace);
    }
}

fn container(workload: &Workload) -> Option<&Container> {
    workload.process.as_ref()?.container.as_ref()
}

/// The command that starts a workload anew, and with it its namespace.
fn restart(process: &Process) -> Option<String> {
    if let Some(of) = &process.container {
        let names = of.pod_namespace.as_deref().zip(of.pod.as_deref());
        let id = names::short_id(&of.id);
        return match (names, of.runtime.as_deref()) {
            (Some((namespace, pod)), _) if is_kubernetes_name(namespace) && is_kubernetes_name(pod) => {
                Some(format!("kubectl -n {namespace} delete pod {pod} (interrupts it)"))
            }
            (None, Some(runtime @ ("docker" | "podman"))) if is_plain_name(id) => {
                Some(format!("{runtime} restart {id} (interrupts it)"))
            }
            _ => None,
        };
    }
    let unit = process.unit.as_deref()?;
    (is_plain_name(unit) && unit.strip_suffix(".service").is_some())
        .then(|| format!("systemctl restart {unit} (interrupts it)"))
}

/// `umount` in the namespace of a process.
fn umount_in(process: &Process, paths: impl Iterator<Item = Vec<u8>>, lazy: bool) -> Option<String> {
    let paths: Vec<String> = paths.take(COMMANDS_MAX).map(|path| shell(&path)).collect();
    let lazy = if lazy { "-l " } else { "" };
    (!paths.is_empty()).then(|| format!("nsenter -t {} -m umount {lazy}{}", process.pid, paths.join(" ")))
}

fn pin(group: &Group) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(used) = group.copies.iter().find(|copy| !copy.holders.is_empty()) {
        let path = shell(used.target.path.as_bytes());
        advice.push(format!(
            "have it close what is open there, which refuses the umount now; all of it: ebusy who {path}"
        ));
    }
    if group.workload.same_namespace {
        let paths: Vec<String> = group
            .copies
            .iter()
            .take(COMMANDS_MAX)
            .map(|copy| shell(copy.path.as_bytes()))
            .collect();
        advice.push(format!(
            "if nothing needs the second mount: umount {}",
            paths.join(" ")
        ));
        return advice;
    }
    match (container(&group.workload), &group.workload.process) {
        (Some(_), _) => advice.push(
            "narrow its hostPath to the directories that it reads, so that container mounts are not below it; \
             HostToContainer is why its files block, not the cure: without it the copies leak"
                .to_owned(),
        ),
        (None, Some(process)) => {
            advice.push(
                "have it open nothing below container mounts: idle copies go with the umount, open ones refuse it".to_owned(),
            );
            let paths = group.copies.iter().map(|copy| copy.path.as_bytes().to_vec());
            advice.extend(umount_in(process, paths, true).map(|command| format!("or take its copies away: {command}")));
        }
        (None, None) => advice.push("end what keeps its namespace (KEPT)".to_owned()),
    }
    advice
}

fn leak(group: &Group) -> Vec<String> {
    let mut advice = Vec::new();
    let Some(process) = &group.workload.process else {
        return vec!["end what keeps its namespace (KEPT): that frees them".to_owned()];
    };
    if process.container.is_some() {
        advice.push(
            "narrow its hostPath; or set mountPropagation: HostToContainer (docker, podman: bind-propagation=rslave), \
             and idle copies go with the umount; takes a new container"
                .to_owned(),
        );
    } else {
        advice.push(
            "have its namespace receive umounts (systemd: MountFlags=slave; unshare --propagation slave), and idle \
             copies go with the umount; takes a new start"
                .to_owned(),
        );
    }
    let paths = group.copies.iter().map(|copy| copy.path.as_bytes().to_vec());
    let command = umount_in(process, paths, group.in_use > 0);
    advice.extend(command.map(|command| format!("for now: {command} (needs umount in its image)")));
    advice.extend(restart(process).map(|command| format!("or: {command}")));
    advice
}

fn of_leaked(leaked: &Leaked) -> Vec<String> {
    let mut advice = Vec::new();
    let used = leaked.places.iter().flat_map(|place| &place.holders).next();
    if used.is_some() {
        advice.push("close what is open there first".to_owned());
    }
    let mut here = Vec::new();
    for place in &leaked.places {
        let path = place.mount.path.as_bytes();
        match place
            .workload
            .as_ref()
            .and_then(|workload| workload.process.as_ref())
        {
            None => here.push(shell(path)),
            Some(process) => {
                let command = umount_in(process, std::iter::once(path.to_vec()), false);
                let again = restart(process).map(|command| format!("; or {command}"));
                advice.extend(command.map(|command| format!("{command}{}", again.unwrap_or_default())));
            }
        }
    }
    if !here.is_empty() {
        here.truncate(COMMANDS_MAX);
        advice.insert(
            usize::from(used.is_some()),
            format!(
                "make sure that nothing is about to use it, then: umount {}",
                here.join(" ")
            ),
        );
    }
    advice.truncate(COMMANDS_MAX + 1);
    advice
}

fn of_detached(detached: &Detached) -> Vec<String> {
    let target = Target {
        fs_type: detached.fs_type.clone(),
        ..Target::default()
    };
    advise_detached(&detached.holders, &target)
}

/// What frees a detached mount.
#[must_use]
pub fn advise_detached(holders: &[Holder], target: &Target) -> Vec<String> {
    // No namespace has it: there is nothing left to unmount.
    let mut advice = advise(holders, target);
    advice.retain(|text| !text.contains("umount"));
    if holders.is_empty() {
        advice.push(
            "the kernel, or what ebusy does not see, has the last reference; it cannot be unmounted again"
                .to_owned(),
        );
    }
    advice
}

/// The same for an incident that follows it.
#[must_use]
pub fn advise_followed(holders: &[Holder], target: &Target) -> Vec<String> {
    let mut advice = advise_detached(holders, target);
    if holders.is_empty() {
        advice.push("see whether it lives still, and what it keeps: ebusy audit (DETACHED)".to_owned());
    }
    advice
}

fn of_namespace(namespace: &KeptNamespace) -> Vec<String> {
    let mut advice = Vec::new();
    for keeper in namespace.kept_by.iter().take(COMMANDS_MAX) {
        match (&keeper.process, &keeper.path) {
            (Some(process), _) => {
                let again = restart(process).unwrap_or_else(|| format!("kill {}", process.pid));
                advice.push(format!("have it close the descriptor, or: {again}"));
            }
            (None, Some(path)) => advice.push(format!("umount {}", shell(path.as_bytes()))),
            (None, None) => {}
        }
    }
    advice
}
