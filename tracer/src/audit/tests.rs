//! A small host: targets, copies, and their kinds.

use std::collections::HashMap;

use super::{
    Evidence, Owner, Space, State, View, findings, plan,
    testing::{at, audit, holder, mount},
};
use crate::{
    kernel::Mount,
    live::Mounted,
    model::{Audit, Container, Detached, Keeper, Process, Propagation, Target, Text},
};

const ROOTFS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/web/rootfs";

fn process(pid: u32, comm: &str, container: Option<&str>) -> Process {
    Process {
        pid,
        comm: Text::from(comm.as_bytes().to_vec()),
        container: container.map(|id| Container {
            id: id.to_owned(),
            pod: Some(format!("pod-{id}")),
            pod_namespace: Some("ns".to_owned()),
            ..Container::default()
        }),
        ..Process::default()
    }
}

/// A copy of a mount at another address.
fn copy(of: &Mount, address: u64, parent: u64) -> Mount {
    Mount {
        address,
        id: address as u32,
        parent,
        ..of.clone()
    }
}

fn space(number: u32, first: Option<Process>, mounts: Vec<Mounted>) -> Space {
    Space {
        address: u64::from(number),
        common: u64::from(number) + 0x1000,
        number,
        host: number == 1,
        processes: u64::from(first.is_some()),
        first,
        pod_uid: None,
        mounts,
    }
}

/// A host with a container, its own namespace, a pod with a slave copy, a unit with a private one, and a namespace that
/// only a descriptor keeps.
fn host() -> View {
    let mut root = mount(1);
    root.group = 5;
    let mut target = mount(2);
    (target.parent, target.mountpoint) = (1, 77);
    let slave_root = Mount {
        master: 1,
        group: 0,
        ..copy(&root, 11, 11)
    };
    let private_root = Mount {
        group: 0,
        ..copy(&root, 21, 21)
    };
    let kept_root = copy(&private_root, 31, 31);
    let own = Mount {
        mountpoint: 5,
        ..copy(&target, 41, 40)
    };
    View {
        spaces: vec![
            space(
                1,
                Some(process(1, "systemd", None)),
                vec![at("/", root), at(ROOTFS, target.clone())],
            ),
            space(2, Some(process(40, "app", Some("web"))), vec![at("/", own)]),
            space(
                3,
                Some(process(50, "agent", Some("agent"))),
                vec![
                    at("/host", slave_root),
                    at(&format!("/host{ROOTFS}"), copy(&target, 12, 11)),
                ],
            ),
            space(
                4,
                Some(process(60, "udevd", None)),
                vec![at("/", private_root), at(ROOTFS, copy(&target, 22, 21))],
            ),
            space(
                5,
                None,
                vec![at("/", kept_root), at(ROOTFS, copy(&target, 32, 31))],
            ),
        ],
        ..View::default()
    }
}

fn is_watched(path: &[u8]) -> bool {
    path.ends_with(b"/rootfs")
}

fn look(view: &View, state: State, evidence: &Evidence) -> Audit {
    let owner = |_: &Space, _: &Mounted| Owner {
        what: Some("rootfs".to_owned()),
        container: process(0, "", Some("web")).container,
        pod_uid: None,
        state,
    };
    let plan = plan(view, &is_watched, &owner);
    let mut audit = audit();
    findings(&mut audit, view, &plan, evidence, &|at| Target {
        path: Text::from(view.spaces[at.0].mounts[at.1].path.clone()),
        mount_namespace: Some(view.spaces[at.0].number),
        ..Target::default()
    });
    audit
}

#[test]
fn slave_copies_pin_and_private_ones_leak_and_the_container_itself_does_neither() {
    let audit = look(&host(), State::Alive, &Evidence::default());
    assert_eq!((audit.watched, audit.mount_namespaces), (1, 5));
    let whose = |groups: &[crate::model::Group]| -> Vec<Option<u32>> {
        let process = |group: &crate::model::Group| Some(group.workload.process.as_ref()?.pid);
        groups.iter().map(process).collect()
    };
    assert_eq!(whose(&audit.can_pin), [Some(50)]);
    assert_eq!(audit.can_pin[0].copies[0].propagation, Some(Propagation::Slave));
    let mut leaks = whose(&audit.can_leak);
    leaks.sort_unstable();
    assert_eq!(leaks, [None, Some(60)]);
    assert!(audit.now.is_empty() && audit.leaked.is_empty() && audit.detached.is_empty());
    // No process is in the last one, and no reference that keeps it was found.
    assert_eq!((audit.namespaces.len(), audit.namespaces[0].watched), (1, 1));
    assert!(audit.namespaces[0].kept_by.is_empty());
}

#[test]
fn a_copy_with_a_mount_of_its_own_does_not_refuse_an_umount() {
    let mut view = host();
    let mut child = mount(13);
    (child.parent, child.mountpoint) = (12, 99);
    view.spaces[2].mounts.push(at("/host/x", child));
    let audit = look(&view, State::Alive, &Evidence::default());
    assert!(audit.can_pin.is_empty());
    assert_eq!(audit.can_leak.len(), 3);
    // One that covers its root is allowed for.
    view.spaces[2].mounts[2].mount.mountpoint = view.spaces[2].mounts[1].mount.root;
    assert_eq!(look(&view, State::Alive, &Evidence::default()).can_pin.len(), 1);
}

#[test]
fn files_open_through_a_slave_copy_are_told_now_and_own_ones_are_not() {
    let mut evidence = Evidence::default();
    evidence
        .holders
        .insert(12, vec![holder(process(50, "agent", Some("agent")))]);
    let audit = look(&host(), State::Alive, &evidence);
    assert_eq!(
        (audit.now.len(), audit.now[0].stuck, audit.can_pin[0].in_use),
        (1, false, 1)
    );
    assert_eq!(audit.now[0].holders[0].process.as_ref().unwrap().pid, 50);
    // The container's own goes with it, while it lives.
    let own = vec![holder(process(40, "app", Some("web")))];
    let evidence = Evidence {
        holders: HashMap::from([(2, own)]),
        ..Evidence::default()
    };
    assert!(look(&host(), State::Alive, &evidence).now.is_empty());
    assert_eq!(look(&host(), State::Stuck, &evidence).now[0].holders.len(), 1);
}

#[test]
fn references_without_a_holder_are_told() {
    let evidence = |on: u64| Evidence {
        extra: [2, 12, 22]
            .map(|mount| (mount, u64::from(mount == on) * 2))
            .into(),
        ..Evidence::default()
    };
    assert_eq!(
        look(&host(), State::Alive, &evidence(12)).now[0].unexplained,
        Some(2)
    );
    // That one does not block.
    assert!(look(&host(), State::Alive, &evidence(22)).now.is_empty());
}

#[test]
fn what_is_gone_has_leaked_with_its_private_copies() {
    let audit = look(&host(), State::Gone, &Evidence::default());
    let places: Vec<_> = audit.leaked[0]
        .places
        .iter()
        .map(|place| place.mount.mount_namespace)
        .collect();
    assert_eq!(places, [Some(1), Some(4), Some(5)]);
    assert!(audit.leaked[0].places[0].workload.is_none());
    // The slave copy goes with the umount, so it can still refuse it.
    assert_eq!(
        (audit.can_pin.len(), audit.can_leak.len(), audit.now.len()),
        (1, 0, 0)
    );
    assert!(look(&host(), State::Stuck, &Evidence::default()).now[0].stuck);
}

#[test]
fn a_bind_of_a_part_is_a_copy_only_of_a_file_system_that_nothing_else_has() {
    let mut view = host();
    let mut part = view.spaces[3].mounts[1].mount.clone();
    part.root = 4242;
    view.spaces[3].mounts[1] = at("/data", part);
    assert_eq!(look(&view, State::Alive, &Evidence::default()).can_leak.len(), 2);
    // At home, the file system is mounted elsewhere as well, and stays.
    let mut other = copy(&view.spaces[0].mounts[1].mount, 3, 1);
    (other.root, other.mountpoint) = (4243, 78);
    view.spaces[0].mounts.push(at("/mnt", other));
    assert_eq!(look(&view, State::Alive, &Evidence::default()).can_leak.len(), 1);
}

#[test]
fn who_keeps_a_namespace() {
    let mut view = host();
    view.spaces[0].mounts.push(at("/run/ns", mount(6)));
    view.nsfs.insert(6, 5 + 0x1000);
    let keeper = Keeper {
        kind: "fd".to_owned(),
        process: Some(process(7, "keeper", None)),
        fd: Some(3),
        path: None,
        mount_namespace: None,
    };
    let evidence = Evidence {
        keepers: HashMap::from([(5, vec![keeper])]),
        own_pid: 7,
        ..Evidence::default()
    };
    let audit = look(&view, State::Alive, &evidence);
    let kept = &audit.namespaces[0].kept_by;
    assert_eq!(
        (kept[0].kind.as_str(), kept[1].kind.as_str()),
        ("fd", "bind_mount")
    );
    assert_eq!(kept[1].path.as_ref().unwrap().as_bytes(), b"/run/ns");
    // ebusy's own would be reported.
    assert_eq!(audit.own.unwrap().namespaces, 1);
}

#[test]
fn a_detached_tree_is_told_by_its_top() {
    let mut view = host();
    let top = mount(100);
    let below = Mount {
        parent: 100,
        ..mount(101)
    };
    // Damage: two that are each other's parents.
    let ring = [
        Mount {
            parent: 103,
            ..mount(102)
        },
        Mount {
            parent: 102,
            ..mount(103)
        },
    ];
    view.detached = [vec![top, below], ring.to_vec()].concat();
    let known = |id: u64| Detached {
        mount_id: id as u32,
        fs_type: Some("tmpfs".to_owned()),
        source: None,
        device: None,
        below: 0,
        mounted_elsewhere: false,
        bytes: Some(4096),
        holders: Vec::new(),
        unexplained: None,
        fixes: Vec::new(),
    };
    let evidence = Evidence {
        detached: (100..104).map(|id| (id, known(id))).collect(),
        holders: HashMap::from([(101, vec![holder(process(9, "cat", None))])]),
        extra: HashMap::from([(100, 0), (101, 1)]),
        ..Evidence::default()
    };
    let audit = look(&view, State::Alive, &evidence);
    let top = audit
        .detached
        .iter()
        .find(|detached| detached.mount_id == 100)
        .unwrap();
    assert_eq!((top.below, top.holders.len(), top.bytes), (1, 1, Some(4096)));
    assert_eq!(top.unexplained, Some(0));
    assert!(audit.detached.iter().all(|detached| detached.mount_id != 101));
}
