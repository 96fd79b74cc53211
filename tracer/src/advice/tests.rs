use super::umount::of_holders as fixes;
use crate::{
    model::{
        Container, Fix, FixAction, Holder, Kind, Owner, Process, Propagation, Sharer, TakesAlong, Target,
        Through, UNIX_GARBAGE, samples,
    },
    text::Command,
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
    samples::read(&fixes(holders, &[], &samples::target()))
}

fn shown(command: Option<&Command>) -> Option<String> {
    command.map(ToString::to_string)
}

#[test]
fn a_pod_with_a_slave_copy() {
    assert_eq!(
        advice(&[samples::holder()]),
        [
            "have node-agent close the file, or end it (the pod is recreated): kubectl -n monitoring delete pod \
             node-agent-x7k2p",
            "or leave it running, and take its copy away (its files stay open; runs no program of its image): nsenter -t \
             48211 -p umount -i -n -N 48211 -l \
             /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs",
            "to keep it from happening again, narrow that pod's hostPath; HostToContainer is why its files block, not \
             the cure",
        ]
    );
}

#[test]
fn a_shared_copy_must_not_be_unmounted() {
    let mut holder = samples::holder();
    holder.propagation = Some(Propagation::Shared);
    let fixes = fixes(&[holder], &[], &samples::target());
    let notes: Vec<&str> = fixes
        .iter()
        .filter(|fix| fix.action == FixAction::Note)
        .map(|fix| fix.text.as_str())
        .collect();
    assert_eq!(
        notes,
        [
            "no umount in the mount namespace of node-agent: its copy is shared, the target would go with it",
            "umount -l of the target only hides it: its space and its device stay busy until the last holder ends",
        ]
    );
    let nsenter = |fix: &Fix| {
        fix.command
            .as_ref()
            .is_some_and(|command| command.arguments()[0] == "nsenter")
    };
    assert!(!fixes.iter().any(nsenter));
}

#[test]
fn a_program_finds_the_command_what_it_interrupts_and_what_follows() {
    let [first, copy, setting, force, hides] = fixes(&[samples::holder()], &[], &samples::target())
        .try_into()
        .unwrap();
    assert_eq!(first.action, FixAction::Command);
    assert_eq!(
        shown(first.command.as_ref()).as_deref(),
        Some("kubectl -n monitoring delete pod node-agent-x7k2p")
    );
    assert_eq!(first.interrupts.as_deref(), Some("the pod is recreated"));
    assert_eq!(
        first.then.as_deref(),
        Some("containerd tries again by itself, within 5 min")
    );
    assert_eq!(
        shown(first.check.as_ref()).as_deref(),
        Some("ebusy who 9c41d0e7a2f4")
    );
    assert!(
        copy.command
            .unwrap()
            .to_string()
            .starts_with("nsenter -t 48211 -p umount -i -n -N 48211 -l /host/")
    );
    assert_eq!((setting.action, setting.command), (FixAction::Change, None));
    assert_eq!(shown(force.command.as_ref()).as_deref(), Some("kill -9 48211"));
    assert_eq!(
        (hides.action, hides.then, hides.check),
        (FixAction::Note, None, None)
    );
    let volume = Target {
        path:
            "/var/lib/kubelet/pods/0c9a2f1e-3b4d-4e5f-8a6b-7c8d9e0f1a2b/volumes/kubernetes.io~csi/pvc-1/mount"
                .into(),
        container: None,
        ..samples::target()
    };
    let then = |target: &Target| fixes(&[samples::holder()], &[], target).remove(0).then.unwrap();
    assert!(then(&volume).starts_with("the kubelet"));
    assert_eq!(
        then(&Target {
            path: "/mnt".into(),
            ..volume.clone()
        }),
        "run the umount again"
    );
}

fn kernel(kind: Kind, by: &str) -> Holder {
    Holder {
        process: None,
        held_by: Some(by.into()),
        seen_as: Some("/m/img".into()),
        path: "/img".into(),
        ..plain(0, "", kind)
    }
}

#[test]
fn what_no_process_has() {
    let command = |kind, by: &str| {
        let fix = fixes(&[kernel(kind, by)], &[], &samples::target()).remove(0);
        shown(fix.command.as_ref())
    };
    for (kind, by, expected) in [
        (Kind::Loop, "/dev/loop3", "losetup -d /dev/loop3"),
        (Kind::Swap, "", "swapoff /m/img"),
        (
            Kind::Accounting,
            "/proc/7/ns/pid",
            "nsenter --pid=/proc/7/ns/pid accton off",
        ),
        (Kind::ChildMount, "", "umount /m/img"),
        (Kind::Deferred, UNIX_GARBAGE, "getent passwd root"),
        (
            Kind::NfsExport,
            "*",
            "sh -c 'exportfs -u \"$1\"; exportfs -f' sh '*:/m/img'",
        ),
        (
            Kind::BinfmtMisc,
            "a b",
            "sh -c 'echo -1 > \"$1\"' sh '/proc/sys/fs/binfmt_misc/a b'",
        ),
        (
            Kind::Uprobe,
            "g/e",
            "sh -c 'cd /sys/kernel/tracing && echo 0 > \"events/$1/enable\"; echo \"-:$1\" >> uprobe_events' sh g/e",
        ),
    ] {
        assert_eq!(command(kind, by).as_deref(), Some(expected));
    }
    let of_the_host = Holder {
        held_by: None,
        ..kernel(Kind::Accounting, "")
    };
    let off = fixes(&[of_the_host], &[], &samples::target()).remove(0);
    assert_eq!(shown(off.command.as_ref()).as_deref(), Some("accton off"));
    let fixes = fixes(&[kernel(Kind::Deferred, "")], &[], &samples::target());
    assert_eq!(fixes[0].action, FixAction::Wait);
    assert!(fixes[1].text.starts_with("killing does not help"));
}

#[test]
fn every_kind_has_something_to_do() {
    for kind in Kind::ALL {
        let nobody = fixes(&[kernel(kind, "x")], &[], &samples::target());
        let somebody = fixes(&[plain(412, "tail", kind)], &[], &samples::target());
        let holdable = !matches!(
            kind,
            Kind::Fd
                | Kind::Cwd
                | Kind::Root
                | Kind::Exe
                | Kind::Mmap
                | Kind::IoUring
                | Kind::Fanotify
                | Kind::PathWalk
                // Of other operations than umount.
                | Kind::Mount
        );
        assert!(!holdable || nobody[0].action != FixAction::Note, "{kind:?}");
        assert!(somebody[0].action != FixAction::Note, "{kind:?}");
    }
}

#[test]
fn what_is_only_suspected_comes_after_what_is_known() {
    let fixes = fixes(
        &[plain(412, "tail", Kind::Fd)],
        &[plain(77, "ls", Kind::PathWalk)],
        &samples::target(),
    );
    assert_eq!(
        samples::read(&fixes)[1],
        "perhaps: have ls finish its lookup, or end it: kill 77"
    );
}

#[test]
fn every_kind_of_a_plain_process() {
    for (kind, text) in [
        (Kind::Fd, "have tail close the file, or end it: kill 412"),
        (Kind::Cwd, "have tail leave the directory, or end it: kill 412"),
        (Kind::Root, "end tail, whose root directory it is: kill 412"),
        (Kind::Exe, "end tail, which runs from it: kill 412"),
        (Kind::Mmap, "end tail, which has a file of it mapped: kill 412"),
    ] {
        assert_eq!(advice(&[plain(412, "tail", kind)]), [text]);
    }
    let both = [plain(412, "tail", Kind::Fd), plain(412, "tail", Kind::Cwd)];
    assert_eq!(
        advice(&both),
        ["have tail close the file and leave the directory, or end it: kill 412"]
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
    let advice = samples::read(&fixes(&[plain(412, "tail", Kind::Fd), child], &[], &target));
    assert_eq!(
        advice,
        [
            "unmount /mnt/x/data first, which is mounted on top (whoever uses that mount): umount /mnt/x/data",
            "and have tail close the file, or end it: kill 412"
        ]
    );
}

fn child(path: &str, below: u64, peers: u64) -> Holder {
    Holder {
        kind: Kind::ChildMount,
        process: None,
        seen_as: Some(path.into()),
        takes_along: Some(TakesAlong { below, peers }),
        ..samples::holder()
    }
}

#[test]
fn all_mounts_on_top_and_below_those_go() {
    let target = Target {
        path: "/m".into(),
        ..samples::target()
    };
    let advice = |children: &[Holder]| samples::read(&fixes(children, &[], &target));
    assert_eq!(
        advice(&[child("/m/a", 2, 0)]),
        [
            "unmount /m/a first, which is mounted on top, with the 2 mounts below it (whoever uses that mount): umount -R \
          /m/a"
        ]
    );
    let many: Vec<Holder> = (0..40)
        .map(|number| child(&format!("/m/{number}"), 0, 0))
        .collect();
    let [first, second] = advice(&many).try_into().unwrap();
    let paths = |text: &str| text.matches(" /m/").count();
    assert_eq!((paths(&first), paths(&second)), (32, 8));
    assert!(first.contains(": umount /m/0 /m/1 ") && second.starts_with("and unmount the 8 mounts"));
    let more: Vec<Holder> = (0..200)
        .map(|number| child(&format!("/m/{number}"), 0, 0))
        .collect();
    assert_eq!(
        advice(&more),
        ["unmount it with the 200 mounts that are on top of it (whoever uses those mounts): umount -R /m"]
    );
}

#[test]
fn the_original_of_a_copy_stays() {
    let target = Target {
        path: "/m".into(),
        ..samples::target()
    };
    assert_eq!(
        samples::read(&fixes(&[child("/m/a", 0, 1)], &[], &target)),
        [
            "make it a slave first: it is a peer of another mount, which would lose its mounts as well: mount --make-rslave /m",
            "and unmount /m/a first, which is mounted on top (whoever uses that mount): umount /m/a"
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
        "have tail close the file, or end it (restarts that service): systemctl restart log.service"
    );
    for name in ["session-3.scope", "user@0.service", "a b.service"] {
        assert_eq!(unit(name), "have tail close the file, or end it: kill 412");
    }
    assert_eq!(
        of(&container("docker", Some("moby"), Some("web"))),
        "have tail close the file, or end it (restarts that container): docker restart web"
    );
    assert_eq!(
        of(&container("podman", None, None)),
        "have tail close the file, or end it (restarts that container): podman restart d0d0d0d0d0d0"
    );
    assert_eq!(
        of(&Container {
            id: "web".into(),
            ..container("containerd", Some("default"), None)
        }),
        "have tail close the file, or end it (ends that container; -s KILL if it ignores that): ctr -n default task kill web"
    );
    let own = samples::target().container.unwrap();
    assert_eq!(of(&own), "have tail close the file, or end it: kill 412");
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
        ["have sh and 1 more close the file, or end it: kill -HUP 412 415"]
    );
}

#[test]
fn one_advice_for_every_owner() {
    let holders: Vec<Holder> = (0..20)
        .map(|index| plain(400 + index, "tail", Kind::Fd))
        .collect();
    let told = advice(&holders);
    assert_eq!(told.len(), 9);
    assert_eq!(told[8], "and do the same for 12 other holders");
    let mut same = vec![samples::holder(), samples::holder()];
    same[1].fd = Some(38);
    assert_eq!(advice(&same).len(), 3);
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
    let fixes = fixes(&[holder], &[], &samples::target());
    assert_eq!(
        samples::read(&fixes)[0],
        "have 'x\\n\\u{202e}' close the file, or end it: kill 48211"
    );
    // The path of its copy cannot be typed.
    let commands: Vec<String> = fixes
        .iter()
        .filter_map(|fix| shown(fix.command.as_ref()))
        .collect();
    assert_eq!(commands, ["kill 48211", "kill -9 48211"]);
}

#[test]
fn nothing_to_advise() {
    assert!(advice(&[]).is_empty());
}
