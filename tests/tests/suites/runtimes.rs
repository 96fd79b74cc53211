//! Real runtimes: the pod, the image and the owner of targets and holders are those given to the runtime.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use ebusy_tests::{
    cri::{self, NAMESPACE, Node, Pod, Propagation, Spec},
    ebusy::{self, Watch, who},
    engines::{Engine, IMAGE, Kind, end_children, find},
    expect::Problems,
    harness::{self, Verdict},
    holder::{Holding, PATIENCE},
    image::{FILE, NAME},
    namespace::Namespace,
    pause,
    report::{Container, Holder, HostMount, Incident, Owner, Who},
};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("pods_of_containerd", pods_of_containerd),
        harness::test("containers_of_docker", || engine(Kind::Docker)),
        harness::test("containers_of_podman", || engine(Kind::Podman)),
        harness::test("runc_without_an_engine", runc_without_an_engine),
    ])
}

/// Waits for a path in a file below `/host`, and opens that path below `/host`.
fn opens_what_it_is_told(go: &Path) -> String {
    format!(
        "while ! read path < /host{}; do sleep 0.2; done 2>/dev/null; exec sleep 1000 < /host$path",
        go.display()
    )
}

fn mounted(propagation: &str) -> Vec<HostMount> {
    vec![HostMount {
        path: "/".into(),
        destination: Some("/host".into()),
        propagation: Some(propagation.into()),
    }]
}

/// Expected facts of a container.
#[derive(Debug, Default)]
struct Truth<'a> {
    runtime: &'a str,
    id: &'a str,
    name: &'a str,
    namespace: Option<&'a str>,
    pod: Option<(&'a str, &'a str)>,
    image: &'a str,
    owner: Option<(&'a str, &'a str)>,
    privileged: bool,
    host_pid: bool,
    host_mounts: Vec<HostMount>,
}

impl Truth<'_> {
    fn check(&self, problem: &mut Problems, label: &str, found: Option<&Container>) {
        let Some(found) = found else {
            problem.check(false, || format!("{label}: no container"));
            return;
        };
        let label = |field: &str| format!("{label}: {field}");
        problem.equal(&label("runtime"), &found.runtime.as_deref(), &Some(self.runtime));
        problem.equal(&label("id"), &found.id.as_str(), &self.id);
        problem.equal(&label("name"), &found.name.as_deref(), &Some(self.name));
        problem.equal(&label("namespace"), &found.namespace.as_deref(), &self.namespace);
        let pod = found.pod_namespace.as_deref().zip(found.pod.as_deref());
        problem.equal(&label("pod"), &pod, &self.pod);
        problem.equal(&label("image"), &found.image.as_deref(), &Some(self.image));
        let owner = |owner: &Owner| (owner.kind.clone(), owner.name.clone());
        let expected = self.owner.map(|(kind, name)| (kind.to_owned(), name.to_owned()));
        problem.equal(&label("owner"), &found.owner.as_ref().map(owner), &expected);
        problem.equal(&label("privileged"), &found.privileged, &Some(self.privileged));
        problem.equal(&label("host_pid"), &found.host_pid, &Some(self.host_pid));
        problem.equal(&label("host_mounts"), &found.host_mounts, &self.host_mounts);
        let paths: Vec<String> = self.host_mounts.iter().map(|mount| mount.path.clone()).collect();
        problem.equal(&label("host_paths"), &found.host_paths, &paths);
    }
}

/// The entry of the process that runs in that container.
fn of<'a>(lists: &[&'a [Holder]], id: &str) -> Option<&'a Holder> {
    let is_its = |holder: &&Holder| container(holder).is_some_and(|found| found.id == id);
    lists.iter().flat_map(|list| list.iter()).find(is_its)
}

fn container(holder: &Holder) -> Option<&Container> {
    holder.process.as_ref()?.container.as_ref()
}

/// Repeats `who` until it shows an open file in all of these containers.
fn who_until(what: &str, ids: &[&str]) -> Result<Who> {
    pause::until(PATIENCE, || {
        let (_, answers) = who(what)?;
        let seen = |answer: &Who| {
            ids.iter()
                .all(|id| of(&[&answer.holders, &answer.bystanders], id).is_some())
        };
        // A container may have other mounts, such as its shm.
        Ok(answers.iter().find(|answer| seen(answer)).cloned())
    })
    .with_context(|| format!("who {what}: {:#?}", who(what)))
}

const JOB: Pod<'_> = Pod {
    name: "wf-build-7h2kq",
    namespace: "ci",
    uid: "11111111-2222-3333-4444-555555555555",
    labels: &[("workflows.argoproj.io/workflow", "wf-build-7h2kq")],
    annotations: &[],
    privileged: false,
    host_pid: false,
};
const AGENT: Pod<'_> = Pod {
    name: "node-agent-x7k2p",
    namespace: "monitoring",
    uid: "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e",
    labels: &[("app", "node-agent"), ("controller-revision-hash", "59cb8f6d4b")],
    annotations: &[],
    privileged: true,
    host_pid: true,
};
const SCANNER: Pod<'_> = Pod {
    name: "scanner-node1",
    namespace: "kube-system",
    uid: "a3a2c1d4e5f60718293a4b5c6d7e8f90",
    labels: &[],
    annotations: &[("kubernetes.io/config.source", "file")],
    privileged: false,
    host_pid: false,
};

/// A workflow's container cannot be deleted, because a privileged agent that has the host's `/` with `HostToContainer`
/// reads its log. A scanner that has it without that reads it too, and blocks nobody.
fn pods_of_containerd() -> Result<Verdict> {
    if let Some(reason) = cri::missing() {
        return Ok(Verdict::Skipped(reason));
    }
    let watch = Watch::start(&[])?;
    let mut node = Node::start()?;
    let go = node.containerd.directory().join("go");
    let script = opens_what_it_is_told(&go);
    let command = ["sh", "-c", &script];
    let agent_sandbox = node.pod(AGENT)?;
    let spec = Spec {
        name: "agent",
        command: &command,
        host: Some(Propagation::HostToContainer),
    };
    let agent = node.container(&agent_sandbox, AGENT, spec)?;
    let job_sandbox = node.pod(JOB)?;
    let spec = Spec {
        name: "main",
        command: &["sleep", "1000"],
        host: None,
    };
    let job = node.container(&job_sandbox, JOB, spec)?;
    let scanner_sandbox = node.pod(SCANNER)?;
    let spec = Spec {
        name: "scanner",
        command: &command,
        host: Some(Propagation::Private),
    };
    let scanner = node.container(&scanner_sandbox, SCANNER, spec)?;

    let rootfs = node.bundle(&job).join("rootfs");
    fs::write(&go, format!("{}{FILE}\n", rootfs.display()))?;
    let answer = who_until(&job[..12], &[&agent, &scanner])?;

    // The kubelet's word for it is another; that the process ends is what matters.
    let init: i32 = fs::read_to_string(node.bundle(&job).join("init.pid"))?
        .trim()
        .parse()?;
    kill_process(Pid::from_raw(init).context("a process id")?, Signal::KILL)?;
    let expected = format!(
        "failed to unmount target {}: device or resource busy",
        rootfs.display()
    );
    pause::until(PATIENCE, || {
        Ok(node.containerd.log().contains(&expected).then_some(()))
    })
    .with_context(|| format!("containerd does not fail\n{}", node.containerd.log()))?;
    let holder = of(&[&answer.holders], &agent).context("the agent blocks")?;
    let pid = holder.process.as_ref().map_or(0, |process| process.pid);
    kill_process(Pid::from_raw(pid as i32).context("a process id")?, Signal::KILL)?;
    let incident = watch.wait_for_incident(&rootfs, PATIENCE + PATIENCE)?;
    let _ = watch.finish()?;

    truth(&[&job, &agent, &scanner], &answer, &incident)?;
    // It is gone by now, which is not the same as free.
    let gone = ebusy::run(ebusy::command("who")?.arg(&job))?;
    gone.expect_code(4)?;
    let words = format!("container {job} has no mounts: there is nothing to unmount\n");
    ensure!(gone.stderr == words && gone.stdout.is_empty(), "{gone:?}");
    Ok(Verdict::Passed)
}

/// The names of the three, by `who` and afterwards in the report.
fn truth([job, agent, scanner]: &[&str; 3], answer: &Who, incident: &Incident) -> Result<()> {
    let mut problems = Problems::default();
    let main = Truth {
        runtime: "containerd",
        id: job,
        name: "main",
        namespace: Some(NAMESPACE),
        pod: Some((JOB.namespace, JOB.name)),
        image: NAME,
        owner: Some(("Workflow", JOB.name)),
        ..Truth::default()
    };
    let monitor = Truth {
        id: agent,
        name: "agent",
        pod: Some((AGENT.namespace, AGENT.name)),
        owner: Some(("DaemonSet", "node-agent")),
        privileged: true,
        host_pid: true,
        host_mounts: mounted("slave"),
        ..main
    };
    let reader = Truth {
        id: scanner,
        name: "scanner",
        pod: Some((SCANNER.namespace, SCANNER.name)),
        owner: Some(("StaticPod", SCANNER.name)),
        privileged: false,
        host_pid: false,
        host_mounts: mounted("private"),
        ..main
    };
    let problem = &mut problems;
    main.check(problem, "who: target", answer.target.container.as_ref());
    let holder = of(&[&answer.holders], agent);
    monitor.check(problem, "who: holder", holder.and_then(container));
    let through = holder.map(|holder| holder.through.as_str());
    problem.equal("who: through", &through, &Some("propagated_copy"));
    let beside = of(&[&answer.bystanders], scanner);
    reader.check(problem, "who: bystander", beside.and_then(container));
    main.check(problem, "target", incident.target.container.as_ref());
    let holder = of(&[&incident.holders], agent);
    monitor.check(problem, "holder", holder.and_then(container));
    let beside = of(&[&incident.bystanders], scanner);
    reader.check(problem, "bystander", beside.and_then(container));
    problem.equal("caller", &incident.caller.comm.as_str(), &"containerd-shim");
    problem.equal("outcome", &incident.outcome.as_deref(), &Some("released"));
    problem.equal("lost_events", &incident.lost_events, &0);
    problems.into_result(incident)
}

/// Docker and Podman detach busy mounts, so there is no refusal: the test runs `who` before.
fn engine(kind: Kind) -> Result<Verdict> {
    if let Some(reason) = kind.missing() {
        return Ok(Verdict::Skipped(reason));
    }
    let mut engine = Engine::start(kind)?;
    let go = engine.directory().join("go");
    let web = match engine.container("web", &[], &["sleep", "1000"]) {
        Err(error) if is_refused_by_the_machine(&error) => {
            return Ok(Verdict::Skipped(format!("{error:#}").replace('\n', " ")));
        }
        web => web?,
    };
    let script = opens_what_it_is_told(&go);
    let options = ["--pid", "host", "--volume", "/:/host:rslave"];
    let command = ["sh", "-c", &script];
    // A machine that lacks capabilities itself cannot give a container all of them.
    let (monitor, privileged) =
        match engine.container("monitor", &[&options[..], &["--privileged"]].concat(), &command) {
            Ok(id) => (id, true),
            Err(error) if is_refused_by_the_machine(&error) => {
                eprintln!("no privileged container here: {error:#}");
                engine.run(&["rm", "--force", "monitor"])?;
                (engine.container("monitor", &options, &command)?, false)
            }
            Err(error) => return Err(error),
        };
    let rootfs = engine.rootfs("web")?;
    let file = rootfs.join(FILE.trim_start_matches('/'));
    let host = Holding::start("hold-fd", Namespace::Same, std::slice::from_ref(&file))?;
    fs::write(&go, format!("{}\n", file.display()))?;
    let by_id = who_until(&web[..12], &[&monitor])?;
    let by_name = who_until("web", &[&monitor])?;

    let (runtime, namespace) = match kind {
        Kind::Docker => ("docker", Some("moby")),
        Kind::Podman => ("podman", None),
    };
    let target = Truth {
        runtime,
        id: &web,
        name: "web",
        namespace,
        image: IMAGE,
        ..Truth::default()
    };
    let reader = Truth {
        id: &monitor,
        name: "monitor",
        privileged,
        host_pid: true,
        host_mounts: mounted("slave"),
        ..target
    };
    let mut problems = Problems::default();
    for answer in [&by_id, &by_name] {
        let problem = &mut problems;
        target.check(problem, "target", answer.target.container.as_ref());
        let lists: [&[Holder]; 2] = [&answer.holders, &answer.bystanders];
        reader.check(problem, "monitor", of(&lists, &monitor).and_then(container));
        let pid = host.claimed.ready.pid;
        let is_it = |holder: &&Holder| holder.process.as_ref().is_some_and(|process| process.pid == pid);
        let own = answer.holders.iter().find(is_it);
        problem.check(own.is_some_and(|own| container(own).is_none()), || {
            format!("the process of the host: {own:#?}")
        });
    }
    problems.into_result(&by_id)?;
    host.release()?;
    Ok(Verdict::Passed)
}

/// A container may not get everything that the engine requests, if this machine is a container itself.
fn is_refused_by_the_machine(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}").to_lowercase();
    text.contains("operation not permitted") || text.contains("permission denied")
}

/// No engine, no names: ebusy does not guess.
fn runc_without_an_engine() -> Result<Verdict> {
    let (Some(runc), Some(busybox)) = (find("runc"), find("busybox")) else {
        return Ok(Verdict::Skipped("no runc or busybox".to_owned()));
    };
    let directory = tempfile::Builder::new().prefix("ebusy-runc-").tempdir()?;
    let bundle = directory.path().join("bundle");
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    rustix::mount::mount(
        "ebusy-test",
        &rootfs,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )?;
    let mounted = Mounted(&rootfs);
    fs::create_dir(rootfs.join("bin"))?;
    fs::create_dir_all(rootfs.join("proc"))?;
    fs::copy(busybox, rootfs.join("bin/sleep"))?;
    // In its own namespace it has a private copy; from the host's it is a process like others.
    let configuration = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "cgroupsPath": "/ebusy-test/plain"},
    });
    fs::write(bundle.join("config.json"), configuration.to_string())?;
    let id = format!("ebusy-{}", std::process::id());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&runc);
        command
            .arg("--root")
            .arg(directory.path().join("state"))
            .args(arguments);
        let output = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status()?;
        if !output.success() {
            bail!("runc {arguments:?}: {output}");
        }
        Ok(())
    };
    rustix::process::set_child_subreaper(Pid::from_raw(std::process::id() as i32))?;
    run(&["run", "--detach", "--bundle", &bundle.display().to_string(), &id])?;
    let file = rootfs.join("bin/sleep");
    let host = Holding::start("hold-fd", Namespace::Same, std::slice::from_ref(&file))?;
    let (code, answers) = who(&rootfs)?;
    run(&["delete", "--force", &id])?;
    end_children(&["sleep"]);
    let mut problems = Problems::default();
    problems.equal("exit status", &code, &1);
    problems.equal("answers", &answers.len(), &1);
    let answer = answers.first().context("an answer")?;
    problems.check(answer.target.container.is_none(), || {
        "the target has a container".to_owned()
    });
    let inside = answer.bystanders.iter().find(|found| {
        let process = found.process.as_ref();
        process.is_some_and(|process| process.comm == "sleep")
    });
    problems.check(inside.is_some_and(|found| container(found).is_none()), || {
        format!("the container's process: {inside:#?}")
    });
    problems.equal("holders", &answer.holders.len(), &1);
    problems.into_result(answer)?;
    host.release()?;
    drop(mounted);
    Ok(Verdict::Passed)
}

/// A mount that goes with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
