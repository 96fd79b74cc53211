//! What processes, containers and mounts are called.

use crate::{
    identity::{mount_claim, requester},
    model::{Container, Process, Refusals, Target},
    text::{Line, short_name},
};

/// `shop/web-0 "main"`, `container "web"` or `container 9c41d0e7a2f4`.
pub(super) fn container(line: Line, container: &Container) -> Line {
    match (&container.pod, &container.name) {
        (Some(pod), name) => {
            let namespace = container.pod_namespace.as_deref().unwrap_or("?");
            let line = line.name(format!("{namespace}/{pod}").as_bytes());
            match name {
                Some(name) => line.words(" ").quoted(name.as_bytes()),
                None => line,
            }
        }
        (None, Some(name)) => line.words("container ").quoted(name.as_bytes()),
        (None, None) => {
            let line = line.words("container ").name(container.short_id().as_bytes());
            if container.unproven {
                line.words(", as the name of its cgroup claims")
            } else {
                line
            }
        }
    }
}

/// ` and 2 more`: who else was refused.
pub(super) fn other_callers(line: Line, caller: &Process, refusals: &Refusals) -> Line {
    let others = refusals.callers.iter().filter(|other| other.pid != caller.pid);
    match others.count() {
        0 => line,
        others => line.maybe(6, format!(" and {others} more")),
    }
}

/// The same in few words, for lists.
pub(super) fn container_short(of: &Container) -> String {
    match (&of.pod, &of.name) {
        (Some(pod), _) => {
            let namespace = of.pod_namespace.as_deref().unwrap_or("?");
            short_name(format!("{namespace}/{pod}").as_bytes())
        }
        (None, Some(name)) => short_name(name.as_bytes()),
        (None, None) => short_name(of.short_id().as_bytes()),
    }
}

/// ` (containerd 9c41d0e7a2f4)`: what the runtime's own commands want to know.
fn runtime(container: &Container) -> String {
    let id = short_name(container.short_id().as_bytes());
    let runtime = container
        .runtime
        .as_deref()
        .map(|runtime| short_name(runtime.as_bytes()));
    let namespace = container
        .namespace
        .as_deref()
        .filter(|namespace| !matches!(*namespace, "k8s.io" | "moby"));
    let named = container.pod.is_some() || container.name.is_some();
    let place = namespace.map(|namespace| short_name(namespace.as_bytes()));
    match (runtime, place, named) {
        (None, _, true) => format!(" ({id})"),
        (None, _, false) => String::new(),
        (Some(runtime), None, true) => format!(" ({runtime} {id})"),
        (Some(runtime), Some(place), true) => format!(" ({runtime} {place}/{id})"),
        (Some(runtime), None, false) => format!(" ({runtime})"),
        (Some(runtime), Some(place), false) => format!(" ({runtime}, namespace {place})"),
    }
}

/// ` (DaemonSet node-agent)`, if that is known.
pub(super) fn owner(container: &Container) -> Option<String> {
    let owner = container.owner.as_ref()?;
    Some(format!(
        " ({} {})",
        short_name(owner.kind.as_bytes()),
        short_name(owner.name.as_bytes())
    ))
}

/// `rootfs of ci/build "main" (containerd 9c41d0e7a2f4)`, or path and file system type.
pub(super) fn target(line: Line, target: &Target) -> Line {
    let claim = mount_claim(target.path.as_bytes());
    match (&target.container, claim) {
        (Some(of), Some(claim)) => {
            let line = line.with(|line| claimed(line, &claim.what));
            let below = claim.what.starts_with("mount ");
            let line = if below {
                line.words(" ").path(target.path.as_bytes())
            } else {
                line
            };
            container(line.words(" of "), of).maybe(2, runtime(of))
        }
        (Some(of), None) => {
            let line = line.path(target.path.as_bytes()).words(" of ");
            container(line, of).maybe(2, runtime(of))
        }
        (None, claim) => {
            let line = match claim {
                Some(claim) => line.with(|line| claimed(line, &claim.what)).words(" "),
                None => line,
            };
            let line = line.path(target.path.as_bytes());
            match &target.fs_type {
                Some(fs_type) => line.maybe(3, format!(" ({})", short_name(fs_type.as_bytes()))),
                None => line,
            }
        }
    }
}

/// `rootfs` or `volume data`: words of ebusy's own with a name of a volume among them, as one thing where that name
/// could be taken for more words.
pub(super) fn claimed(line: Line, what: &str) -> Line {
    let own = |word: &str| {
        word.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    if what.split(' ').all(own) {
        line.brief(what.to_owned())
    } else {
        line.quoted(what.as_bytes())
    }
}

/// Who asked for the umount: `containerd-shim 19871`, `umount 812, run by kubelet 700 (kubelet.service)`, `umount 812,
/// run by driver 700 of csi/node-x7k2p`.
pub(super) fn caller(line: Line, process: &Process) -> Line {
    let line = line
        .name(process.comm.as_bytes())
        .words(format!(" {}", process.pid));
    let line = match &process.container {
        Some(of) => line.maybe(4, format!(" of {}", container_short(of))),
        None => line,
    };
    let known = process.requester.as_deref();
    let behind = known.map(|known| (&known.comm, known.pid));
    // A stream of an older version has only the ancestors.
    let behind = behind.or_else(|| {
        let parent = requester(process.comm.as_bytes(), &process.parents)?;
        Some((&parent.comm, parent.pid))
    });
    let Some((comm, pid)) = behind else { return line };
    let line = line.maybe(5, format!(", run by {} {pid}", short_name(comm.as_bytes())));
    match known.map(|known| (&known.container, &known.unit)) {
        Some((Some(of), _)) if Some(of) != process.container.as_ref() => {
            line.maybe(4, format!(" of {}", container_short(of)))
        }
        Some((None, Some(unit))) => line.maybe(4, format!(" ({})", short_name(unit.as_bytes()))),
        _ => line,
    }
}

/// `node-agent, pid 48211`, with the thread where it is not the first.
pub(super) fn process(line: Line, of: &Process) -> Line {
    let line = line.name(of.comm.as_bytes()).words(format!(", pid {}", of.pid));
    match of.tid.filter(|tid| *tid != of.pid) {
        Some(tid) => line.words(format!(" thread {tid}")),
        None => line,
    }
}

/// `monitoring/node-agent-x7k2p "agent" (DaemonSet node-agent): ` or `cron.service: ` before a process.
pub(super) fn home(line: Line, of: &Process, target: &Target) -> Line {
    match (&of.container, &of.unit) {
        (Some(of), _) if of.is_same_as(target.container.as_ref()) => line.words("the same container: "),
        (Some(of), _) => {
            let line = container(line, of);
            let line = match owner(of) {
                Some(owner) => line.maybe(3, owner),
                None => line,
            };
            line.words(": ")
        }
        (None, Some(unit)) => line.maybe(4, format!("{}: ", short_name(unit.as_bytes()))),
        (None, None) => line,
    }
}

#[cfg(test)]
mod tests {
    use super::{caller, container, home, target};
    use crate::{
        model::{Container, Owner, Parent, Process, Requester, Target, Text},
        render::samples,
        text::Line,
    };

    fn line(write: impl FnOnce(Line) -> Line) -> String {
        Line::new("X")
            .with(write)
            .finish()
            .trim_start_matches('X')
            .trim_start()
            .to_owned()
    }

    fn of(
        name: Option<&str>,
        pod: Option<&str>,
        runtime: Option<&str>,
        namespace: Option<&str>,
    ) -> Container {
        Container {
            runtime: runtime.map(Into::into),
            id: "9c41d0e7a2f4".repeat(6)[..64].to_owned(),
            name: name.map(Into::into),
            namespace: namespace.map(Into::into),
            pod: pod.map(Into::into),
            pod_namespace: pod.map(|_| "ci".to_owned()),
            ..Container::default()
        }
    }

    #[test]
    fn containers() {
        assert_eq!(
            line(|line| container(line, &of(Some("main"), Some("p"), None, None))),
            "ci/p \"main\""
        );
        assert_eq!(
            line(|line| container(line, &of(None, Some("p"), None, None))),
            "ci/p"
        );
        assert_eq!(
            line(|line| container(line, &of(Some("web"), None, None, None))),
            "container \"web\""
        );
        assert_eq!(
            line(|line| container(line, &of(None, None, None, None))),
            "container 9c41d0e7a2f4"
        );
        let claimed = Container {
            unproven: true,
            ..of(None, None, None, None)
        };
        assert_eq!(
            line(|line| container(line, &claimed)),
            "container 9c41d0e7a2f4, as the name of its cgroup claims"
        );
    }

    #[test]
    fn targets() {
        let rootfs = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/x/rootfs";
        let volume = "/var/lib/kubelet/pods/0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e/volumes/kubernetes.io~csi/pvc-1/mount";
        let text = |path: &str, container: Option<Container>| {
            let of = Target {
                path: path.into(),
                container,
                ..samples::target()
            };
            line(|line| target(line, &of))
        };
        for (path, container, expected) in [
            (
                rootfs,
                Some(of(Some("main"), Some("p"), Some("containerd"), Some("k8s.io"))),
                "rootfs of ci/p \"main\" (containerd 9c41d0e7a2f4)",
            ),
            (
                rootfs,
                Some(of(None, None, Some("containerd"), Some("default"))),
                "rootfs of container 9c41d0e7a2f4 (containerd, namespace default)",
            ),
            (
                volume,
                Some(of(None, Some("p"), Some("containerd"), Some("k8s.io"))),
                "volume pvc-1 of ci/p (containerd 9c41d0e7a2f4)",
            ),
            (
                "/mnt/x",
                Some(of(Some("web"), None, Some("docker"), None)),
                "/mnt/x of container \"web\" (docker 9c41d0e7a2f4)",
            ),
            ("/mnt/x", None, "/mnt/x (overlay)"),
            (
                "/run/netns/cni-1",
                None,
                "network namespace /run/netns/cni-1 (overlay)",
            ),
        ] {
            assert_eq!(text(path, container), expected);
        }
        let below = text(&format!("{rootfs}/data"), Some(of(None, Some("p"), None, None)));
        assert!(
            below.starts_with("mount below the rootfs /run/")
                && below.ends_with("/x/rootfs/data of ci/p (9c41d0e7a2f4)")
        );
    }

    #[test]
    fn callers() {
        let parent = |pid: u32, comm: &str| Parent {
            pid,
            comm: comm.into(),
            ..Parent::default()
        };
        let mut process = Process {
            pid: 812,
            comm: Text::from("umount"),
            ..Process::default()
        };
        assert_eq!(line(|line| caller(line, &process)), "umount 812");
        process.parents = vec![parent(811, "sh"), parent(700, "kubelet"), parent(1, "systemd")];
        assert_eq!(
            line(|line| caller(line, &process)),
            "umount 812, run by kubelet 700"
        );
        process.parents[1].comm = "ebusy".into();
        assert_eq!(line(|line| caller(line, &process)), "umount 812, run by sh 811");
        process.parents[1].comm = "kubelet".into();
        let unit = Some("kubelet.service".to_owned());
        let mut behind = Requester {
            pid: 700,
            comm: "kubelet".into(),
            unit,
            container: None,
        };
        process.requester = Some(Box::new(behind.clone()));
        assert_eq!(
            line(|line| caller(line, &process)),
            "umount 812, run by kubelet 700 (kubelet.service)"
        );
        behind.container = Some(of(Some("driver"), Some("csi-node-x7k2p"), None, None));
        process.requester = Some(Box::new(behind));
        assert_eq!(
            line(|line| caller(line, &process)),
            "umount 812, run by kubelet 700 of ci/csi-node-x7k2p"
        );
        process.requester = None;
        process.comm = "containerd-shim".into();
        assert_eq!(line(|line| caller(line, &process)), "containerd-shim 812");
    }

    #[test]
    fn homes() {
        let mut process = Process {
            unit: Some("cron.service".into()),
            ..Process::default()
        };
        let text = |process: &Process| line(|line| home(line, process, &samples::target()));
        assert_eq!(text(&process), "cron.service:");
        process.container = Some(Container {
            owner: Some(Owner {
                kind: "DaemonSet".into(),
                name: "agent".into(),
                source: String::new(),
            }),
            ..of(Some("a"), Some("agent-x7k2p"), None, None)
        });
        assert_eq!(text(&process), "ci/agent-x7k2p \"a\" (DaemonSet agent):");
        process.container = samples::target().container;
        assert_eq!(text(&process), "the same container:");
    }
}
