//! Holders by what can be ended as a whole: a container, a service, a process.

use std::collections::BTreeSet;

use crate::{
    model::{Container, Fix, FixAction, Holder, Kind, Process, Target},
    text::{Command, is_kubernetes_name, is_plain_name, name_in_text},
};

/// Owners that are told one by one.
pub(super) const MAX_OWNERS: usize = 8;

/// Processes in one `kill`.
const MAX_PIDS: usize = 8;

const SHELLS: &[&str] = &["ash", "bash", "csh", "dash", "fish", "ksh", "sh", "tcsh", "zsh"];

/// Holders that one action frees.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    pub(super) kind: OwnerKind<'a>,
    pub(super) holders: Vec<(&'a Holder, &'a Process)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerKind<'a> {
    Container(&'a Container),
    Unit(&'a str),
    Process(u32),
}

pub(super) fn owners<'a>(holders: &'a [Holder], target: &Target) -> Vec<Owner<'a>> {
    let mut owners: Vec<Owner<'a>> = Vec::new();
    let others = holders.iter().filter(|holder| holder.kind != Kind::ChildMount);
    for (holder, process) in others.filter_map(|holder| Some((holder, holder.process.as_ref()?))) {
        let kind = owner_kind(process, target);
        match owners.iter_mut().find(|owner| owner.kind == kind) {
            Some(owner) => owner.holders.push((holder, process)),
            None => owners.push(Owner {
                kind,
                holders: vec![(holder, process)],
            }),
        }
    }
    owners
}

/// What can be ended as a whole. The target's own container is being ended already, so that what is left of it can
/// only be ended itself.
fn owner_kind<'a>(process: &'a Process, target: &Target) -> OwnerKind<'a> {
    // What only has the name of a container may be anybody's: its processes are ended, and nothing else.
    if let Some(container) = process.container.as_ref().filter(|container| !container.unproven)
        && !container.is_same_as(target.container.as_ref())
    {
        return OwnerKind::Container(container);
    }
    match process.unit.as_deref() {
        Some(unit) if is_restartable(unit) => OwnerKind::Unit(unit),
        _ => OwnerKind::Process(process.pid),
    }
}

/// The command that ends whoever a holder belongs to, and what that interrupts.
pub(super) fn ending(holder: &Holder, target: &Target) -> Option<Fix> {
    let process = holder.process.as_ref()?;
    let owner = Owner {
        kind: owner_kind(process, target),
        holders: vec![(holder, process)],
    };
    let (command, interrupts) = owner.command()?;
    Some(Fix::command(
        format!("end {}", owner.name()),
        Some(command),
        interrupts,
    ))
}

/// Sessions and scopes cannot be restarted; `user@1000.service` is everything that somebody runs.
fn is_restartable(unit: &str) -> bool {
    unit.strip_suffix(".service")
        .is_some_and(|name| is_plain_name(name) && !name.starts_with("user@"))
}

impl Owner<'_> {
    /// The first thing to do: close, or end.
    pub(super) fn release(&self) -> Fix {
        let name = self.name();
        let has = |kind: Kind| {
            self.holders
                .iter()
                .any(|(holder, _)| holder.kind == kind || holder.also.contains(&kind))
        };
        let ending = [
            (Kind::Exe, "which runs from it"),
            (Kind::Root, "whose root directory it is"),
            (Kind::Mmap, "which has a file of it mapped"),
        ];
        let command = self.command();
        if let Some((_, why)) = ending.iter().find(|(kind, _)| has(*kind)) {
            let text = format!("end {name}, {why}");
            return match command {
                Some((command, interrupts)) => Fix::command(text, Some(command), interrupts),
                None => Fix::change(text),
            };
        }
        let files = self
            .holders
            .iter()
            .filter(|(holder, _)| holder.kind == Kind::Fd)
            .count();
        let close = match files {
            0 => "",
            1 => "close the file",
            _ => "close its files",
        };
        let leave = if has(Kind::Cwd) { "leave the directory" } else { "" };
        let others: BTreeSet<&str> = self
            .holders
            .iter()
            .filter_map(|(holder, _)| action(holder.kind))
            .collect();
        let mut steps: Vec<&str> = [close, leave].into_iter().chain(others).collect();
        steps.retain(|step| !step.is_empty());
        if steps.is_empty() {
            steps.push("let go of it");
        }
        let gentle = format!("have {name} {}", steps.join(" and "));
        match command {
            Some((command, interrupts)) => {
                Fix::command(format!("{gentle}, or end it"), Some(command), interrupts)
            }
            None => Fix::change(gentle),
        }
    }

    fn name(&self) -> String {
        let pids = self.pids();
        let Some((_, first)) = self.holders.first() else {
            return String::new();
        };
        let comm = name_in_text(first.comm.as_bytes());
        match pids.len() {
            0 | 1 => comm,
            many => format!("{comm} and {} more", many - 1),
        }
    }

    /// Everybody who has the reference: it lasts until the last one lets go.
    fn pids(&self) -> BTreeSet<u32> {
        let own = self.holders.iter().map(|(_, process)| process.pid);
        let shared = self
            .holders
            .iter()
            .flat_map(|(holder, _)| holder.shared_with.iter().map(|sharer| sharer.pid));
        own.chain(shared).collect()
    }

    /// The command that ends the owner, and what that interrupts.
    fn command(&self) -> Option<(Command, &'static str)> {
        match self.kind {
            OwnerKind::Container(container) => container_command(container).or_else(|| self.kill()),
            OwnerKind::Unit(unit) => Some((restart_of_unit(unit)?, "restarts that service")),
            OwnerKind::Process(_) => self.kill(),
        }
    }

    /// The processes, unless one of them must not be killed or they are too many.
    fn killable(&self) -> Option<Vec<u32>> {
        // The shim and the monitor are what keeps a container managed; killing init ends the host.
        let runtime = |comm: &[u8]| comm.starts_with(b"containerd-shim") || comm == b"conmon";
        if self
            .holders
            .iter()
            .any(|(_, process)| runtime(process.comm.as_bytes()))
        {
            return None;
        }
        let pids: Vec<u32> = self.pids().into_iter().filter(|pid| *pid > 1).collect();
        (!pids.is_empty() && pids.len() <= MAX_PIDS).then_some(pids)
    }

    fn kill(&self) -> Option<(Command, &'static str)> {
        let pids = self.killable()?;
        // A shell that somebody types into ignores SIGTERM.
        let shell = |comm: &[u8]| SHELLS.iter().any(|shell| shell.as_bytes() == comm);
        let shells = self
            .holders
            .iter()
            .any(|(_, process)| shell(process.comm.as_bytes()));
        let signal: &[&str] = if shells { &["-HUP"] } else { &[] };
        Some((Command::new(&["kill"]).words(signal).numbers(&pids), ""))
    }
}

/// SIGTERM waits while a process is stopped or traced, and the init of a pid namespace does not get it (`pid_namespaces(7)`).
pub(super) fn force(owners: &[Owner<'_>]) -> Option<Fix> {
    let pids: BTreeSet<u32> = owners.iter().filter_map(Owner::killable).flatten().collect();
    let pids: Vec<u32> = pids.into_iter().take(MAX_PIDS).collect();
    (!pids.is_empty()).then(|| Fix {
        action: FixAction::Force,
        ..Fix::command(
            "where that is ignored",
            Some(Command::new(&["kill", "-9"]).numbers(&pids)),
            "no time to save anything",
        )
    })
}

fn restart_of_unit(unit: &str) -> Option<Command> {
    Command::new(&["systemctl", "restart"]).name(unit.as_bytes())
}

fn delete_pod(namespace: &str, pod: &str) -> Option<Command> {
    if !is_kubernetes_name(namespace) || !is_kubernetes_name(pod) {
        return None;
    }
    Command::new(&["kubectl", "-n"])
        .name(namespace.as_bytes())?
        .words(&["delete", "pod"])
        .name(pod.as_bytes())
}

/// The command that starts a workload anew, and with it its namespace.
pub(super) fn restart(process: &Process) -> Option<Command> {
    let Some(of) = process.container.as_ref().filter(|of| !of.unproven) else {
        let unit = process.unit.as_deref()?;
        return restart_of_unit(unit).filter(|_| is_restartable(unit));
    };
    if let (Some(namespace), Some(pod)) = (&of.pod_namespace, &of.pod) {
        return delete_pod(namespace, pod);
    }
    let id = of.short_id();
    restart_of_container(of, Some(id).filter(|id| is_plain_name(id))?)
}

fn restart_of_container(of: &Container, name: &str) -> Option<Command> {
    let restart = match of.runtime.as_deref()? {
        "docker" => Command::new(&["docker", "restart"]),
        "podman" => Command::new(&["podman", "restart"]),
        _ => return None,
    };
    restart.name(name.as_bytes())
}

fn container_command(container: &Container) -> Option<(Command, &'static str)> {
    if let (Some(namespace), Some(pod)) = (&container.pod_namespace, &container.pod) {
        let after = if container.owner.is_some() {
            "the pod is recreated"
        } else {
            "ends that pod"
        };
        return Some((delete_pod(namespace, pod)?, after));
    }
    let id = Some(container.id.as_str()).filter(|id| is_plain_name(id))?;
    let name = container
        .name
        .as_deref()
        .filter(|name| is_plain_name(name))
        .unwrap_or(container.short_id());
    if let Some(restart) = restart_of_container(container, name) {
        return Some((restart, "restarts that container"));
    }
    if container.runtime.as_deref() != Some("containerd") {
        return None;
    }
    let namespace = container
        .namespace
        .as_deref()
        .filter(|namespace| is_plain_name(namespace))?;
    let kill = Command::new(&["ctr", "-n"])
        .name(namespace.as_bytes())?
        .words(&["task", "kill"])
        .name(id.as_bytes())?;
    Some((kill, "ends that container; -s KILL if it ignores that"))
}

/// What a process has to do to let go of it, beside ending; `None` where closing files or leaving directories does it.
fn action(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::UnixSocket => Some("close its socket"),
        Kind::ScmRights => Some("receive what waits in its socket, or close it"),
        Kind::IoUring => Some("unregister its io_uring files, and end its requests"),
        Kind::Deferred => Some("finish what it is waiting for"),
        Kind::Fanotify => Some("read its fanotify events"),
        Kind::Uprobe => Some("close its uprobe"),
        Kind::PathWalk => Some("finish its lookup"),
        Kind::Accounting => Some("turn process accounting off"),
        // What the kernel does for a process.
        Kind::Kernel => Some("end its AIO requests"),
        _ => None,
    }
}
