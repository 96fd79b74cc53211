//! Containers of every runtime on a planted host.

use std::{fs, path::Path};

use super::{Containers, Lookup};
use crate::identity::{metadata::testing, spec::samples};

const AGENT: &str = "9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5";
const SANDBOX: &str = "7777777777777777777777777777777777777777777777777777777777777777";
const DOCKER: &str = "d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0d0c0";
const CRIO: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
const PODMAN: &str = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
const UID: &str = "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e";
const TASKS: &str = "run/containerd/io.containerd.runtime.v2.task";
/// The cgroup of that pod under systemd.
const POD: &str = "0::/kubepods.slice/kubepods-besteffort.slice/\
    kubepods-besteffort-pod0f3c5b1e_7f55_4d0f_9f0a_3c1f5a2b4d6e.slice";

/// The text of `/proc/PID/cgroup` in the container of that pod.
fn agent_cgroup() -> String {
    format!("{POD}/cri-containerd-{AGENT}.scope\n")
}

fn plant(host: &Path, path: &str, text: &str) {
    let path = host.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A configuration, with the requested cgroup.
fn with_cgroup(config: &str, path: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(config).unwrap();
    value["linux"]["cgroupsPath"] = path.into();
    value.to_string()
}

/// A host with one container of every runtime.
fn host() -> (tempfile::TempDir, Containers) {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("root");
    let agent = samples::CRI.replace(":9c41\"", &format!(":{AGENT}\""));
    plant(&at, &format!("{TASKS}/k8s.io/{AGENT}/config.json"), &agent);
    let sandbox = samples::CRI
        .replace(":9c41\"", &format!(":{SANDBOX}\""))
        .replace("\"container-type\": \"container\"", "")
        .replace(
            "cri.container-type\": \"container\"",
            "cri.container-type\": \"sandbox\"",
        )
        .replace(
            "{\"type\": \"mount\"}",
            "{\"type\": \"network\", \"path\": \"/var/run/netns/cni-1\"}",
        );
    plant(&at, &format!("{TASKS}/k8s.io/{SANDBOX}/config.json"), &sandbox);
    plant(
        &at,
        &format!("{TASKS}/default/web/config.json"),
        r#"{"root": {"path": "rootfs"}, "linux": {"cgroupsPath": "/default/web"}}"#,
    );
    let docker = format!(
        r#"{{"root": {{"path": "/data/docker/overlay2/abcd/merged"}},
            "linux": {{"cgroupsPath": "system.slice:docker:{DOCKER}"}}}}"#
    );
    plant(&at, &format!("{TASKS}/moby/{DOCKER}/config.json"), &docker);
    let config = r#"{"Name": "/shop", "Config": {"Image": "shop:1"}}"#;
    plant(
        &at,
        &format!("data/docker/containers/{DOCKER}/config.v2.json"),
        config,
    );
    plant(
        &at,
        &format!("data/docker/containers/{DOCKER}/hostconfig.json"),
        r#"{"Privileged": false}"#,
    );
    plant(
        &at,
        &format!("data/docker/image/overlay2/layerdb/mounts/{AGENT}/mount-id"),
        "gone-layer\n",
    );
    let storage = "containers/storage/overlay-containers";
    plant(
        &at,
        &format!("run/{storage}/{CRIO}/userdata/config.json"),
        &with_cgroup(samples::CRIO, &format!("kubepods.slice:crio:{CRIO}")),
    );
    plant(
        &at,
        &format!("var/lib/{storage}/{PODMAN}/userdata/config.json"),
        &with_cgroup(samples::PODMAN, &format!("machine.slice:libpod:{PODMAN}")),
    );
    let list = format!(
        r#"[{{"id": "{PODMAN}", "names": ["db"], "layer": "bbbb", "metadata": "{{\"image-name\":\"db:1\"}}"}}]"#
    );
    plant(&at, &format!("var/lib/{storage}/containers.json"), &list);
    let containers = Containers::new(directory.path().join("proc"), &at);
    learn(&containers);
    (directory, containers)
}

fn learn(containers: &Containers) {
    containers.learn_all(std::iter::empty());
}

/// `(runtime, id, name, pod)` of a mount's container.
type Names = Option<(Option<String>, String, Option<String>, Option<String>)>;

fn of_mount(containers: &Containers, path: &str) -> Names {
    let container = containers.container_of_mount_path(path.as_bytes())?;
    Some((container.runtime, container.id, container.name, container.pod))
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what may be nothing")]
fn names(runtime: &str, id: &str, name: Option<&str>, pod: Option<&str>) -> Names {
    Some((
        Some(runtime.into()),
        id.into(),
        name.map(Into::into),
        pod.map(Into::into),
    ))
}

#[test]
fn by_cgroup() {
    let (_directory, containers) = host();
    let of = |text: &str| containers.of_cgroup(text.as_bytes());
    let agent = of(&agent_cgroup()).unwrap();
    assert!(!agent.unproven);
    assert_eq!(
        (agent.name.as_deref(), agent.namespace.as_deref()),
        (Some("agent"), Some("k8s.io"))
    );
    let docker = of(&format!("0::/system.slice/docker-{DOCKER}.scope\n")).unwrap();
    assert_eq!(
        (docker.name.as_deref(), docker.image.as_deref()),
        (Some("shop"), Some("shop:1"))
    );
    assert_eq!(
        (docker.runtime.as_deref(), docker.privileged),
        (Some("docker"), Some(false))
    );
    let podman = of(&format!("0::/machine.slice/libpod-{PODMAN}.scope/container\n")).unwrap();
    assert_eq!(
        (podman.name.as_deref(), podman.image.as_deref()),
        (Some("db"), Some("db:1"))
    );
    let crio = of(&format!("0::/kubepods.slice/crio-{CRIO}.scope\n")).unwrap();
    assert_eq!(
        (crio.name.as_deref(), crio.pod_namespace.as_deref()),
        (Some("main"), Some("shop"))
    );
    let web = of("0::/default/web\n").unwrap();
    assert_eq!(
        (web.runtime.as_deref(), web.id.as_str()),
        (Some("containerd"), "web")
    );
    assert_eq!(
        (of("0::/default/other\n"), of("0::/system.slice/cron.service\n")),
        (None, None)
    );
}

#[test]
fn a_container_without_a_bundle_still_has_its_id_and_pod() {
    let (_directory, containers) = host();
    let unknown = "e".repeat(64);
    let text = format!("{POD}/cri-containerd-{unknown}.scope\n");
    let container = containers.of_cgroup(text.as_bytes()).unwrap();
    assert!(container.unproven);
    assert_eq!(
        (container.id, container.pod.as_deref()),
        (unknown, Some("node-agent-x7k2p"))
    );
    assert_eq!(
        (container.name, container.image, container.runtime),
        (None, None, Some("containerd".to_owned()))
    );
}

#[test]
fn a_cgroup_that_only_has_the_name_of_a_container_is_not_its() {
    let (_directory, containers) = host();
    let pod = POD.strip_prefix("0::/").unwrap();
    for text in [
        // A user's own slice, with the same name and with the same path in it; another slice of systemd; another pod.
        format!("0::/user-1000.slice/cri-containerd-{AGENT}.scope\n"),
        format!("0::/user-1000.slice/{pod}/cri-containerd-{AGENT}.scope\n"),
        format!("0::/system.slice/cri-containerd-{AGENT}.scope\n"),
        format!("0::/user.slice/docker-{DOCKER}.scope\n"),
        "0::/user-1000.slice/default/web\n".to_owned(),
    ] {
        assert_eq!(containers.of_cgroup(text.as_bytes()), None, "{text}");
    }
    // The cgroup of an unknown container decides its pod, not the name that it took.
    let unknown = "e".repeat(64);
    let text = format!("0::/user-1000.slice/pod{UID}/{unknown}\n");
    let claimed = containers.of_cgroup(text.as_bytes()).unwrap();
    assert_eq!((claimed.unproven, claimed.pod), (true, None));
    // A container in a container is unknown here: the outer, known one counts.
    let inner = format!("{POD}/cri-containerd-{AGENT}.scope/docker-{DOCKER}.scope\n");
    assert_eq!(containers.of_cgroup(inner.as_bytes()).unwrap().id, AGENT);
}

#[test]
fn by_mount() {
    let (_directory, containers) = host();
    let of = |path: &str| of_mount(&containers, path);
    let pod = Some("node-agent-x7k2p");
    assert_eq!(
        of(&format!("/{TASKS}/k8s.io/{AGENT}/rootfs")),
        names("containerd", AGENT, Some("agent"), pod)
    );
    assert_eq!(
        of(&format!("/host/{TASKS}/k8s.io/{AGENT}/rootfs")),
        names("containerd", AGENT, Some("agent"), pod)
    );
    assert_eq!(
        of(&format!("/{TASKS}/k8s.io/gone/rootfs")),
        names("containerd", "gone", None, None)
    );
    let shm = format!("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}/shm");
    assert_eq!(of(&shm), names("containerd", SANDBOX, None, pod));
    let volume = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc/mount");
    assert_eq!(of(&volume), names("containerd", SANDBOX, None, pod));
    assert_eq!(of("/run/netns/cni-1"), names("containerd", SANDBOX, None, pod));
    assert_eq!(
        of("/data/docker/overlay2/abcd/merged"),
        names("docker", DOCKER, Some("shop"), None)
    );
    // Its container is gone, but Docker's own list of layers has it. No usual place leads there, but a mount.
    assert_eq!(of("/data/docker/overlay2/gone-layer/merged"), None);
    containers.learn_all(std::iter::once(
        b"/data/docker/overlay2/gone-layer/merged".as_slice(),
    ));
    assert_eq!(
        of("/data/docker/overlay2/gone-layer/merged"),
        names("containerd", AGENT, Some("agent"), pod)
    );
    assert_eq!(of("/var/lib/docker/overlay2/none/merged"), None);
    let storage = "/var/lib/containers/storage";
    assert_eq!(
        of(&format!("{storage}/overlay/bbbb/merged")),
        names("podman", PODMAN, Some("db"), None)
    );
    assert_eq!(
        of(&format!("{storage}/overlay/aaaa/merged")),
        names("cri-o", CRIO, Some("main"), Some("web-7d9c5b8f6-qx2vl"))
    );
    assert_eq!(of(&format!("{storage}/overlay/none/merged")), None);
    let shm = format!("/run/containers/storage/overlay-containers/{CRIO}/userdata/shm");
    assert_eq!(
        of(&shm),
        names("cri-o", CRIO, Some("main"), Some("web-7d9c5b8f6-qx2vl"))
    );
    assert_eq!((of("/mnt"), of("/run/netns/other")), (None, None));
}

#[test]
fn a_state_directory_is_learnt_from_a_mount() {
    let (directory, containers) = host();
    let root = directory.path().join("root");
    let bundle = "srv/state/io.containerd.runtime.v2.task/default/job";
    plant(
        &root,
        &format!("{bundle}/config.json"),
        r#"{"annotations": {"nerdctl/name": "nightly"}, "linux": {"cgroupsPath": "/default/job"}}"#,
    );
    assert_eq!(containers.of_cgroup(b"0::/default/job\n"), None);
    let path = format!("/{bundle}/rootfs");
    assert_eq!(
        of_mount(&containers, &path),
        names("containerd", "job", None, None)
    );
    containers.learn(path.as_bytes());
    let found = of_mount(&containers, &format!("/{bundle}/rootfs"));
    assert_eq!(found, names("containerd", "job", Some("nightly"), None));
    let of_process = containers.of_cgroup(b"0::/default/job\n").unwrap();
    assert_eq!(of_process.name.as_deref(), Some("nightly"));
    assert!(matches!(containers.lookup("default/job"), Lookup::Found(found) if found.len() == 1));
}

#[test]
fn nothing_is_opened_below_a_containers_mount() {
    let (directory, containers) = host();
    let root = directory.path().join("root");
    // A container that runs a runtime of its own; a mount in it that is no task of the host.
    let inner = format!("run/netns/x/{TASKS}/default/inner");
    plant(
        &root,
        &format!("{inner}/config.json"),
        r#"{"annotations": {"nerdctl/name": "wrong"}}"#,
    );
    containers.learn(format!("/{inner}/rootfs").as_bytes());
    assert_eq!(of_mount(&containers, &format!("/{inner}/rootfs")), None);
    let inner = format!("srv/netns/../{TASKS}/default/inner");
    containers.learn(format!("/{inner}/rootfs").as_bytes());
    assert_eq!(
        of_mount(&containers, &format!("/{inner}/rootfs")),
        names("containerd", "inner", None, None)
    );
}

#[test]
fn what_was_read_once_outlives_its_bundle() {
    let (directory, containers) = host();
    let cgroup = agent_cgroup();
    let before = containers.of_cgroup(cgroup.as_bytes()).unwrap();
    let bundle = directory
        .path()
        .join("root")
        .join(TASKS)
        .join("k8s.io")
        .join(AGENT);
    fs::remove_dir_all(&bundle).unwrap();
    assert_eq!(containers.of_cgroup(cgroup.as_bytes()), Some(before));
    // An id that is used again is another container.
    let root = directory.path().join("root");
    let json = r#"{"annotations": {"nerdctl/name": "second"}, "root": {"path": "rootfs"},
        "linux": {"cgroupsPath": "/default/web"}}"#;
    plant(&root, &format!("{TASKS}/default/web/config.json"), json);
    containers.learn(format!("/{TASKS}/default/web/rootfs").as_bytes());
    assert_eq!(
        containers
            .of_cgroup(b"0::/default/web\n")
            .unwrap()
            .name
            .as_deref(),
        Some("second")
    );
}

#[test]
fn by_name() {
    let (_directory, containers) = host();
    let ids = |what: &str| match containers.lookup(what) {
        Lookup::Nothing => vec![],
        Lookup::Found(found) => found.into_iter().map(|found| found.container.id).collect(),
        Lookup::Ambiguous(_) => vec!["ambiguous".to_owned()],
    };
    assert_eq!(ids("9c41"), [AGENT]);
    assert_eq!(ids(AGENT), [AGENT]);
    assert_eq!(ids("web"), ["web"]);
    assert_eq!(ids("default/web"), ["web"]);
    assert_eq!(ids("db"), [PODMAN]);
    assert_eq!(ids("shop"), [DOCKER]);
    assert_eq!(ids("monitoring/node-agent-x7k2p"), [SANDBOX, AGENT]);
    assert!(ids("monitoring/none").is_empty() && ids("").is_empty() && ids("agent").is_empty());
    assert_eq!(containers.all().len(), 6);
}

#[test]
fn an_ambiguous_beginning_is_no_answer() {
    let (directory, containers) = host();
    let other = format!("{TASKS}/default/9c41-other/config.json");
    plant(
        &directory.path().join("root"),
        &other,
        r#"{"root": {"path": "rootfs"}}"#,
    );
    learn(&containers);
    assert!(matches!(containers.lookup("9c4"), Lookup::Ambiguous(found) if found.len() == 2));
}

#[test]
fn where_the_root_file_system_is() {
    let (_directory, containers) = host();
    let rootfs = |what: &str| match containers.lookup(what) {
        Lookup::Found(found) => found[0].rootfs.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        rootfs("web"),
        Path::new("/").join(TASKS).join("default/web/rootfs")
    );
    assert_eq!(rootfs("shop"), Path::new("/data/docker/overlay2/abcd/merged"));
}

#[test]
fn live_processes_are_counted_and_zombies_are_not() {
    let (directory, containers) = host();
    let proc = directory.path().join("proc");
    let process = |pid: u32, state: char, cgroup: &str| {
        plant(&proc, &format!("{pid}/cgroup"), cgroup);
        let stat = format!("{pid} (x) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n");
        plant(&proc, &format!("{pid}/stat"), &stat);
    };
    let agent = agent_cgroup();
    process(10, 'S', &agent);
    process(11, 'R', &agent);
    process(12, 'Z', &agent);
    process(13, 'Z', &format!("0::/docker/{DOCKER}\n"));
    process(14, 'S', "0::/default/web\n");
    process(15, 'S', "0::/default/other\n");
    plant(&proc, "self/cgroup", &agent);
    let alive = containers.containers_alive();
    assert_eq!((alive.len(), alive[AGENT], alive["web"]), (2, 2, 1));
}

#[test]
fn no_runtime_at_all() {
    let empty = tempfile::tempdir().unwrap();
    let containers = Containers::new(empty.path(), empty.path());
    assert!(containers.all().is_empty() && containers.containers_alive().is_empty());
    assert_eq!(containers.lookup("x"), Lookup::Nothing);
}

#[test]
fn hostile_bundles() {
    let (directory, containers) = host();
    let root = directory.path().join("root");
    let id = |digit: &str| digit.repeat(64);
    for (digit, text) in [
        ("1", String::new()),
        ("2", "[".repeat(100_000)),
        ("3", "{\"linux\":".to_owned()),
    ] {
        plant(&root, &format!("{TASKS}/k8s.io/{}/config.json", id(digit)), &text);
        let path = format!("/{TASKS}/k8s.io/{}/rootfs", id(digit));
        containers.learn(path.as_bytes());
        let found = of_mount(&containers, &path);
        assert_eq!(found, names("containerd", &id(digit), None, None));
    }
    fs::create_dir_all(root.join(TASKS).join("k8s.io").join(id("4")).join("config.json")).unwrap();
    learn(&containers);
    assert_eq!(containers.all().len(), 6);
}

const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";

#[test]
fn labels_are_in_containerds_database() {
    let (directory, _) = host();
    let root = directory.path().join("root");
    let sandbox = &[("controller-revision-hash", "59cb8f6d4b"), ("app", "agent")];
    let asked = r#"{"Metadata":{"Config":{"metadata":{"name":"agent"},"linux":{"security_context":{"privileged":true}}}}}"#;
    let asked = Some(("io.cri-containerd.container.metadata", asked));
    let labels = &[("io.kubernetes.container.name", "agent")];
    let file = testing::of(
        "k8s.io",
        &[
            (SANDBOX, "pause:1", sandbox, None),
            (AGENT, "agent:2", labels, asked),
        ],
    );
    let path = root.join("var/lib/containerd").join(DATABASE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &file).unwrap();
    // It was read before the database was there.
    let containers = Containers::new(directory.path().join("proc"), &root);
    learn(&containers);
    let cgroup = agent_cgroup();
    let found = containers.of_cgroup(cgroup.as_bytes()).unwrap();
    let owner = found.owner.unwrap();
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str()),
        ("DaemonSet", "node-agent")
    );
    assert_eq!(owner.source, "label controller-revision-hash, pod name");
    // The configuration names the image; the database has the request.
    assert_eq!(
        (found.image.as_deref(), found.privileged),
        (Some("registry.example/agent:1.2"), Some(true))
    );
    let sandbox = containers.container_of_mount_path(format!("/{TASKS}/k8s.io/{SANDBOX}/rootfs").as_bytes());
    assert_eq!(sandbox.unwrap().owner.unwrap().kind, "DaemonSet");
}

#[test]
fn a_plain_container_has_its_image_from_the_database_that_its_bundle_leads_to() {
    let (directory, _) = host();
    let root = directory.path().join("root");
    let file = testing::of(
        "default",
        &[(
            "web",
            "docker.io/library/web:1",
            &[("nerdctl/name", "shop")],
            None,
        )],
    );
    let database = root.join("srv/ctd").join(DATABASE);
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, &file).unwrap();
    let link = "/srv/ctd/io.containerd.runtime.v2.task/default/web";
    std::os::unix::fs::symlink(link, root.join(TASKS).join("default/web/work")).unwrap();
    let containers = {
        // It was read before the link was there.
        let again = Containers::new(directory.path().join("proc"), &root);
        learn(&again);
        again
    };
    let web = containers.of_cgroup(b"0::/default/web\n").unwrap();
    assert_eq!(
        (web.name.as_deref(), web.image.as_deref()),
        (Some("shop"), Some("docker.io/library/web:1"))
    );
}

#[test]
fn a_hostile_database() {
    for bytes in [
        Vec::new(),
        vec![0; 10_000],
        vec![0xff; 10_000],
        b"x".repeat(3 << 20),
    ] {
        let (directory, _) = host();
        let root = directory.path().join("root");
        let path = root.join("var/lib/containerd").join(DATABASE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let containers = Containers::new(directory.path().join("proc"), &root);
        learn(&containers);
        let found = containers.of_cgroup(agent_cgroup().as_bytes()).unwrap();
        assert_eq!(
            (found.pod.as_deref(), found.owner),
            (Some("node-agent-x7k2p"), None)
        );
    }
}

#[test]
fn owners_of_crio_and_docker_are_in_their_sandboxes() {
    let (directory, containers) = host();
    let root = directory.path().join("root");
    let storage = "run/containers/storage/overlay-containers";
    let sandbox = "5".repeat(64);
    let container = "6".repeat(64);
    let notes = format!(
        r#""io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.cri-o.SandboxID": "{sandbox}""#
    );
    let config = |id: &str, more: &str| {
        let linux = format!(r#""linux": {{"cgroupsPath": "machine.slice:crio:{id}"}}"#);
        format!(r#"{{"annotations": {{"io.container.manager": "cri-o", {notes}{more}}}, {linux}}}"#)
    };
    let labels = r#", "io.kubernetes.cri-o.Labels": "{\"statefulset.kubernetes.io/pod-name\": \"web-0\"}""#;
    plant(
        &root,
        &format!("{storage}/{sandbox}/userdata/config.json"),
        &config(&sandbox, labels),
    );
    plant(
        &root,
        &format!("{storage}/{container}/userdata/config.json"),
        &config(&container, ""),
    );
    learn(&containers);
    let owner = |id: &str| {
        let found = containers
            .of_cgroup(format!("0::/machine.slice/crio-{id}.scope\n").as_bytes())
            .unwrap();
        found.owner.map(|owner| (owner.kind, owner.name))
    };
    let expected = Some(("StatefulSet".to_owned(), "web".to_owned()));
    assert_eq!((owner(&container), owner(&sandbox)), (expected.clone(), expected));

    let (pod, of) = ("7".repeat(64), "8".repeat(64));
    let labels = r#""io.kubernetes.pod.name": "once-x7k2p", "io.kubernetes.pod.namespace": "ci""#;
    let docker =
        |more: &str| format!(r#"{{"Name": "/k8s_x", "Config": {{"Labels": {{{labels}, {more}}}}}}}"#);
    plant(
        &root,
        &format!("var/lib/docker/containers/{of}/config.v2.json"),
        &docker(&format!(r#""io.kubernetes.sandbox.id": "{pod}""#)),
    );
    plant(
        &root,
        &format!("var/lib/docker/containers/{pod}/config.v2.json"),
        &docker(r#""job-name": "once""#),
    );
    learn(&containers);
    let path = format!("/var/lib/docker/containers/{of}/mounts/shm");
    let found = containers.container_of_mount_path(path.as_bytes()).unwrap();
    assert_eq!(
        found.owner.map(|owner| (owner.kind, owner.name)),
        Some(("Job".to_owned(), "once".to_owned()))
    );
}
