//! Audits as text.

use jiff::tz::TimeZone;

use super::{LINES_MAX, MARGIN, audit};
use crate::{
    advice::advise_audit,
    audit::testing,
    model::{
        Audit, CopiedMount, Detached, Fix, Group, Keeper, KeptNamespace, Leaked, LeakedPlace, Now, Own,
        Propagation, Setting, Text, Workload,
    },
    render::{Style, samples},
    text::{
        Command,
        fit::{COLUMNS, columns},
    },
};

fn group(slave: bool) -> Group {
    let holder = samples::holder();
    Group {
        workload: Workload {
            process: Some(samples::agent()),
            processes: 3,
            same_namespace: false,
        },
        mount_namespaces: vec![4_026_533_012],
        mounts: 24,
        in_use: u64::from(slave),
        copies: vec![CopiedMount {
            target: samples::target(),
            path: Text::from(b"/host/run/x/rootfs".to_vec()),
            path_base64: None,
            mount_id: 7,
            mount_namespace: 4_026_533_012,
            propagation: Some(Propagation::new(false, slave)),
            holders: if slave { vec![holder] } else { Vec::new() },
        }],
        fixes: Vec::new(),
    }
}

fn full() -> Audit {
    let process = samples::plain(7, "keeper", crate::model::Kind::Fd, "/f").process;
    let mut of = Audit {
        watched: 24,
        mount_namespaces: 37,
        now: vec![Now {
            target: samples::target(),
            stuck: true,
            holders: vec![samples::holder()],
            unexplained: Some(0),
            fixes: Vec::new(),
        }],
        can_pin: vec![group(true)],
        can_leak: vec![group(false)],
        leaked: vec![Leaked {
            what: "shm".to_owned(),
            container: samples::target().container,
            pod_uid: None,
            places: vec![LeakedPlace {
                mount: samples::target(),
                workload: None,
                holders: Vec::new(),
            }],
            fixes: Vec::new(),
        }],
        detached: vec![Detached {
            mount_id: 9,
            fs_type: Some("tmpfs".to_owned()),
            source: Some(Text::from(b"scratch".to_vec())),
            device: None,
            below: 1,
            mounted_elsewhere: false,
            bytes: Some(5 << 20),
            holders: vec![samples::plain(412, "bash", crate::model::Kind::Cwd, "/var")],
            unexplained: Some(0),
            fixes: Vec::new(),
        }],
        namespaces: vec![KeptNamespace {
            number: 4_026_533_999,
            mounts: 31,
            watched: 4,
            kept_by: vec![Keeper {
                kind: "fd".to_owned(),
                process,
                fd: Some(8),
                path: None,
                mount_namespace: None,
            }],
            fixes: Vec::new(),
        }],
        settings: vec![Setting {
            name: "fs.may_detach_mounts".to_owned(),
            value: 0,
            used: None,
            why: "rmdir of a mount point fails".to_owned(),
            fixes: vec![Fix::command(
                "set it",
                Some(Command::new(&["sysctl", "-w"]).assign("fs.may_detach_mounts", 1)),
                "",
            )],
        }],
        own: Some(Own {
            references: 0,
            namespaces: 0,
        }),
        ..testing::audit()
    };
    advise_audit(&mut of);
    of
}

fn text(of: &Audit) -> String {
    let style = Style {
        terminal: false,
        zone: TimeZone::UTC,
    };
    audit(of, &style)
}

#[test]
fn every_section() {
    insta::assert_snapshot!(text(&full()), @r#"
    AUDIT  1 stuck now, 1 can pin, 1 can leak, 1 leaked, 1 detached, 1 kept, 1 sysctl
    NOW    rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4): stuck, 1 holder
      by     monito[..]e-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211, fd 37 /var/log/app.log
      fix    have node-agent close the file, or end it (the pod is recreated):
             kubectl -n monitoring delete pod node-agent-x7k2p
    PIN    monito[..]-agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211: 24 slave copies, 1 in use
      open   /var/log/app.log, on the rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4)
      fix    have it close what is open there, which refuses the umount now; all of it:
             ebusy who /run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
    LEAK   monit[..]agent-x7k2p "agent" (DaemonSet node-agent): node-agent, pid 48211: 24 private copies, 0 in use
      as     /host/run/x/rootfs, rootfs of ci/wf-build-7h2kq "main" (containerd 9c41d0e7a2f4) +23
      fix    narrow its hostPath; or set mountPropagation: HostToContainer (docker, podman:
             bind-propagation=rslave), and idle copies go with the umount; takes a new container
    LEAKED shm of ci/wf-build-7h2kq "main", which is gone
      at     /run/containerd/io.containerd.runtime.v2.task/k8s.io/[..]/rootfs
      fix    make sure that nothing is about to use it, then unmount it:
             umount /run/containerd/io.containerd.runtime.v2.task/k8s.io/9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5/rootfs
    DETACH tmpfs scratch, 5.0 MiB not freed, 1 mount below it
      by     bash, pid 412, cwd /var
      fix    have bash leave the directory, or end it:
             kill -HUP 412
    KEPT   mnt ns 4026533999 without a process: 31 mounts, 4 copies of container mounts
      by     keeper, pid 7, fd 8
      fix    have keeper close the descriptor, or end it (interrupts it):
             kill 7
    SYSCTL fs.may_detach_mounts = 0: rmdir of a mount point fails
      fix    set it:
             sysctl -w fs.may_detach_mounts=1
    OWN    ebusy itself: 0 references on these mounts, 0 descriptors of mount namespaces (measured)
    "#);
}

#[test]
fn nothing_found_and_nothing_seen() {
    let mut of = testing::audit();
    assert!(text(&of).starts_with("AUDIT  nothing found; 0 mounts"));
    of.blind.push("detached".to_owned());
    let blind = text(&of);
    assert!(
        blind.contains("not everything was seen") && blind.contains("as a whole: detached"),
        "{blind}"
    );
}

#[test]
fn whatever_there_is_fits_a_screen() {
    let mut of = full();
    of.now = vec![of.now[0].clone(); 50];
    of.can_pin = vec![group(true); 50];
    of.can_leak = vec![group(false); 50];
    of.leaked = vec![of.leaked[0].clone(); 50];
    of.detached = vec![of.detached[0].clone(); 50];
    of.namespaces = vec![of.namespaces[0].clone(); 50];
    of.detached[0].source = Some(Text::from(vec![b'\n'; 400]));
    advise_audit(&mut of);
    let text = text(&of);
    assert!(text.lines().count() <= LINES_MAX, "{text}");
    // Commands are never cut.
    let is_command = |line: &str| line.starts_with(&" ".repeat(MARGIN));
    assert!(
        text.lines()
            .all(|line| is_command(line) || columns(line) <= COLUMNS),
        "{text}"
    );
    assert!(text.contains("more: see --format json"));
    // What ebusy itself holds is never cut off.
    assert!(text.lines().any(|line| line.starts_with("OWN")), "{text}");
}
