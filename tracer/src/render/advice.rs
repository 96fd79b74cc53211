//! What to do about holders. Nothing of it is done by ebusy itself.
//!
//! The least harmful thing comes first, and what a command interrupts stands beside it. All that comes from others is
//! quoted for a shell where it is part of a command, and escaped where it is not.

use std::collections::BTreeSet;

use super::{
    names,
    quote::{is_kubernetes_name, is_plain_name, shell},
    sanitize::escape,
};
use crate::model::{Container, Holder, Kind, Process, Target, Through};

/// Owners that are told one by one.
const MAX_OWNERS: usize = 8;
/// Processes in one `kill`.
const MAX_PIDS: usize = 8;

const SHELLS: &[&str] = &["ash", "bash", "csh", "dash", "fish", "ksh", "sh", "tcsh", "zsh"];

/// What frees the target, least harmful first: one entry for every owner, then other ways, then what does not help.
#[must_use]
pub fn advise(holders: &[Holder], target: &Target) -> Vec<String> {
    let mut advice: Vec<String> = child_mounts(holders, target);
    let owners = owners(holders, target);
    for owner in owners.iter().take(MAX_OWNERS) {
        let and = if advice.is_empty() { "" } else { "and " };
        advice.push(format!("{and}{}", owner.release()));
    }
    if owners.len() > MAX_OWNERS {
        advice.push(format!(
            "and the same for {} other holders",
            owners.len() - MAX_OWNERS
        ));
    }
    advice.extend(
        owners
            .iter()
            .take(MAX_OWNERS)
            .filter_map(|owner| owner.detach(target)),
    );
    let slaves = owners.iter().find_map(Owner::narrow);
    advice.extend(slaves);
    advice
}

/// A mount on top has to go first.
fn child_mounts(holders: &[Holder], target: &Target) -> Vec<String> {
    let children = holders
        .iter()
        .filter(|holder| holder.kind == Kind::ChildMount)
        .take(MAX_OWNERS);
    let command = |holder: &Holder| {
        let seen = holder.seen_as.as_ref().map(|seen| seen.as_bytes().to_vec());
        let path = seen.unwrap_or_else(|| joined(target.path.as_bytes(), holder.path.as_bytes()));
        format!("umount {} first: it is mounted on top", shell(&path))
    };
    children
        .enumerate()
        .map(|(index, holder)| format!("{}{}", if index == 0 { "" } else { "and " }, command(holder)))
        .collect()
}

fn joined(mountpoint: &[u8], path: &[u8]) -> Vec<u8> {
    let mountpoint = mountpoint.strip_suffix(b"/").unwrap_or(mountpoint);
    let path = if path == b"/" { &b""[..] } else { path };
    [mountpoint, path].concat()
}

/// Holders that one action frees.
struct Owner<'a> {
    kind: OwnerKind<'a>,
    holders: Vec<(&'a Holder, &'a Process)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnerKind<'a> {
    Container(&'a Container),
    Unit(&'a str),
    Process(u32),
}

fn owners<'a>(holders: &'a [Holder], target: &Target) -> Vec<Owner<'a>> {
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
    if let Some(container) = &process.container
        && !names::is_same(container, target.container.as_ref())
    {
        return OwnerKind::Container(container);
    }
    match process.unit.as_deref() {
        Some(unit) if is_restartable(unit) => OwnerKind::Unit(unit),
        _ => OwnerKind::Process(process.pid),
    }
}

/// Sessions and scopes cannot be restarted; `user@1000.service` is everything that somebody runs.
fn is_restartable(unit: &str) -> bool {
    unit.strip_suffix(".service")
        .is_some_and(|name| is_plain_name(name) && !name.starts_with("user@"))
}

impl Owner<'_> {
    /// The first thing to do: close, or end.
    fn release(&self) -> String {
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
            return match command {
                Some(command) => format!("end {name}, {why}: {command}"),
                None => format!("end {name}, {why}"),
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
        let and = if close.is_empty() || leave.is_empty() {
            ""
        } else {
            " and "
        };
        let action = if files == 0 && leave.is_empty() {
            "let go of it"
        } else {
            ""
        };
        let gentle = format!("have {name} {close}{and}{leave}{action}");
        match command {
            Some(command) => format!("{gentle}, or: {command}"),
            None => gentle,
        }
    }

    fn name(&self) -> String {
        let pids = self.pids();
        let Some((_, first)) = self.holders.first() else {
            return String::new();
        };
        let comm = escape(first.comm.as_bytes());
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
    fn command(&self) -> Option<String> {
        match self.kind {
            OwnerKind::Container(container) => container_command(container).or_else(|| self.kill()),
            OwnerKind::Unit(unit) => Some(format!("systemctl restart {unit} (restarts that service)")),
            OwnerKind::Process(_) => self.kill(),
        }
    }

    fn kill(&self) -> Option<String> {
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
        let list: Vec<String> = pids.iter().take(MAX_PIDS).map(u32::to_string).collect();
        // A shell that somebody types into ignores SIGTERM.
        let shell = |comm: &[u8]| SHELLS.iter().any(|shell| shell.as_bytes() == comm);
        let shells = self
            .holders
            .iter()
            .any(|(_, process)| shell(process.comm.as_bytes()));
        let signal = if shells { "-HUP " } else { "" };
        (!list.is_empty() && pids.len() <= MAX_PIDS).then(|| format!("kill {signal}{}", list.join(" ")))
    }

    /// In a propagated copy, it is enough to take the copy away.
    fn detach(&self, target: &Target) -> Option<String> {
        let mut copies = self
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
                format!("no umount in the mount namespace of {name}: its copy is shared, the target would go with it")
            });
        }
        let path = shell(&mountpoint);
        if holder.mount_namespace.is_some() && holder.mount_namespace == target.mount_namespace {
            return Some(format!(
                "or leave it running: umount -l {path} (takes its copy away; its files stay open)"
            ));
        }
        let pid = process.pid;
        Some(format!(
            "or leave it running: nsenter -t {pid} -m umount -l {path} (takes its copy away; its files stay open; \
             needs umount in its image)"
        ))
    }

    /// What would keep it from happening again.
    fn narrow(&self) -> Option<String> {
        let OwnerKind::Container(container) = self.kind else {
            return None;
        };
        let copy = |(holder, _): &&(&Holder, &Process)| {
            holder.through == Through::PropagatedCopy
                && holder
                    .propagation
                    .as_deref()
                    .is_some_and(|propagation| propagation.contains("slave"))
        };
        self.holders.iter().find(copy)?;
        container.pod.as_ref()?;
        Some(
            "to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block, \
             not the cure"
                .to_owned(),
        )
    }
}

fn container_command(container: &Container) -> Option<String> {
    if let (Some(namespace), Some(pod)) = (&container.pod_namespace, &container.pod) {
        if !is_kubernetes_name(namespace) || !is_kubernetes_name(pod) {
            return None;
        }
        let after = if container.owner.is_some() {
            "is recreated"
        } else {
            "ends that pod"
        };
        return Some(format!("kubectl -n {namespace} delete pod {pod} ({after})"));
    }
    let id = Some(container.id.as_str()).filter(|id| is_plain_name(id))?;
    let name = container
        .name
        .as_deref()
        .filter(|name| is_plain_name(name))
        .unwrap_or(names::short_id(id));
    match container.runtime.as_deref()? {
        "docker" => Some(format!("docker restart {name} (restarts that container)")),
        "podman" => Some(format!("podman restart {name} (restarts that container)")),
        "containerd" => {
            let namespace = container
                .namespace
                .as_deref()
                .filter(|namespace| is_plain_name(namespace))?;
            Some(format!(
                "ctr -n {namespace} task kill {id} (ends that container; -s KILL if it ignores that)"
            ))
        }
        _ => None,
    }
}

/// Where the holder sees the mount: its view of the file without the part inside the mount.
pub(super) fn mountpoint_seen(holder: &Holder) -> Option<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::advise;
    use crate::{
        model::{Container, Holder, Kind, Owner, Process, Sharer, Target, Through},
        render::samples,
    };

    fn plain(pid: u32, comm: &str, kind: Kind) -> Holder {
        let process = Process {
            pid,
            comm: comm.into(),
            ..Process::default()
        };
        Holder {
            kind,
            through: Through::Target,
            process: Some(process),
            ..samples::holder()
        }
    }

    fn advice(holders: &[Holder]) -> Vec<String> {
        advise(holders, &samples::target())
    }

    #[test]
    fn a_pod_with_a_slave_copy() {
        assert_eq!(
            advice(&[samples::holder()]),
            [
                "have node-agent close the file, or: kubectl -n monitoring delete pod node-agent-x7k2p (is recreated)",
                "or leave it running: nsenter -t 48211 -m umount -l \
                 /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs \
                 (takes its copy away; its files stay open; needs umount in its image)",
                "to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block, not \
                 the cure",
            ]
        );
    }

    #[test]
    fn a_shared_copy_must_not_be_unmounted() {
        let mut holder = samples::holder();
        holder.propagation = Some("shared".into());
        let advice = advice(&[holder]);
        assert_eq!(
            advice[1..],
            [
                "no umount in the mount namespace of node-agent: its copy is shared, the target would go with it"
            ]
        );
    }

    #[test]
    fn every_kind_of_a_plain_process() {
        for (kind, text) in [
            (Kind::Fd, "have tail close the file, or: kill 412"),
            (Kind::Cwd, "have tail leave the directory, or: kill 412"),
            (Kind::Root, "end tail, whose root directory it is: kill 412"),
            (Kind::Exe, "end tail, which runs from it: kill 412"),
            (Kind::Mmap, "end tail, which has a file of it mapped: kill 412"),
        ] {
            assert_eq!(advice(&[plain(412, "tail", kind)]), [text]);
        }
        let both = [plain(412, "tail", Kind::Fd), plain(412, "tail", Kind::Cwd)];
        assert_eq!(
            advice(&both),
            ["have tail close the file and leave the directory, or: kill 412"]
        );
    }

    #[test]
    fn a_mount_on_top_goes_first() {
        let child = Holder {
            kind: Kind::ChildMount,
            process: None,
            seen_as: None,
            path: "/data".into(),
            ..samples::holder()
        };
        let target = Target {
            path: "/mnt/x".into(),
            ..samples::target()
        };
        let advice = advise(&[plain(412, "tail", Kind::Fd), child], &target);
        assert_eq!(
            advice,
            [
                "umount /mnt/x/data first: it is mounted on top",
                "and have tail close the file, or: kill 412"
            ]
        );
    }

    #[test]
    fn units_containers_and_what_is_left_of_the_target() {
        let with = |change: &dyn Fn(&mut Process)| {
            let mut holder = plain(412, "tail", Kind::Fd);
            holder.process.iter_mut().for_each(change);
            advice(&[holder]).remove(0)
        };
        let container = |runtime: &str, namespace: Option<&str>, name: Option<&str>| Container {
            runtime: Some(runtime.into()),
            id: "d0".repeat(32),
            name: name.map(Into::into),
            namespace: namespace.map(Into::into),
            ..Container::default()
        };
        let unit = |unit: &str| with(&|process| process.unit = Some(unit.into()));
        let of = |container: &Container| with(&|process| process.container = Some(container.clone()));
        assert_eq!(
            unit("log.service"),
            "have tail close the file, or: systemctl restart log.service (restarts that service)"
        );
        for name in ["session-3.scope", "user@0.service", "a b.service"] {
            assert_eq!(unit(name), "have tail close the file, or: kill 412");
        }
        assert_eq!(
            of(&container("docker", Some("moby"), Some("web"))),
            "have tail close the file, or: docker restart web (restarts that container)"
        );
        assert_eq!(
            of(&container("podman", None, None)),
            "have tail close the file, or: podman restart d0d0d0d0d0d0 (restarts that container)"
        );
        assert_eq!(
            of(&Container {
                id: "web".into(),
                ..container("containerd", Some("default"), None)
            }),
            "have tail close the file, or: ctr -n default task kill web (ends that container; -s KILL if it ignores that)"
        );
        let own = samples::target().container.unwrap();
        assert_eq!(of(&own), "have tail close the file, or: kill 412");
        assert_eq!(
            with(&|process| process.comm = "containerd-shim".into()),
            "have containerd-shim close the file"
        );
        assert_eq!(with(&|process| process.pid = 1), "have tail close the file");
    }

    #[test]
    fn who_shares_a_reference_has_to_let_go_as_well() {
        let mut holder = plain(412, "sh", Kind::Fd);
        holder.shared_with = vec![Sharer {
            pid: 415,
            comm: "cat".into(),
            fd: Some(0),
        }];
        assert_eq!(
            advice(&[holder]),
            ["have sh and 1 more close the file, or: kill -HUP 412 415"]
        );
    }

    #[test]
    fn one_advice_for_every_owner() {
        let holders: Vec<Holder> = (0..20)
            .map(|index| plain(400 + index, "tail", Kind::Fd))
            .collect();
        let advice = advice(&holders);
        assert_eq!(advice.len(), 9);
        assert_eq!(advice[8], "and the same for 12 other holders");
        let mut same = vec![samples::holder(), samples::holder()];
        same[1].fd = Some(38);
        assert_eq!(advise(&same, &samples::target()).len(), 3);
    }

    #[test]
    fn hostile_names_stay_words() {
        let mut holder = samples::holder();
        let process = holder.process.as_mut().unwrap();
        process.comm = "x\n\u{202e}".into();
        let container = process.container.as_mut().unwrap();
        container.pod = Some("--all; reboot".into());
        container.owner = Some(Owner {
            kind: "x".into(),
            name: "y".into(),
            source: String::new(),
        });
        holder.seen_as = Some("/host/$(reboot)\n/f".into());
        holder.path = "/f".into();
        let advice = advice(&[holder]);
        assert_eq!(advice[0], "have x\\n\\u{202e} close the file, or: kill 48211");
        assert!(
            advice[1].contains("umount -l $'/host/$(reboot)\\012' ("),
            "{}",
            advice[1]
        );
        assert!(!advice.concat().contains("--all"));
    }

    #[test]
    fn nothing_to_advise() {
        assert!(advice(&[]).is_empty());
    }
}
