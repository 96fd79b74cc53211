//! Foreign claims are neither orders nor proof: runtime files that make their opener wait, mounts and cgroups that only
//! have the name of a container, and file systems that are unmounted while ebusy looks for their owner.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{self, Running, Watch, who},
    harness::{self, Verdict},
    holder::{Helper, Holding, PATIENCE},
    namespace::Namespace,
    pause,
    report::{Container, Who},
    scratch::{FileSystem, Scratch},
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tempfile::TempDir;

const ID: &str = "9c41d0e7a2f4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d4e6f8a0b2c4d6e8f0a1b3c5";
const OTHER: &str = "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0";
const POD: &str = "0f3c5b1e-7f55-4d0f-9f0a-3c1f5a2b4d6e";
const TASKS: &str = "io.containerd.runtime.v2.task";
/// A user without privilege.
const NOBODY: u32 = 65534;

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test(
            "no_umount_fails_because_of_ebusy",
            no_umount_fails_because_of_ebusy,
        ),
        harness::test(
            "a_container_that_stays_is_read_about",
            a_container_that_stays_is_read_about,
        ),
        harness::test("files_that_make_wait", files_that_make_wait),
        harness::test(
            "a_mount_that_has_the_path_of_a_container",
            a_mount_that_has_the_path_of_a_container,
        ),
        harness::test(
            "a_cgroup_that_has_the_name_of_a_container",
            a_cgroup_that_has_the_name_of_a_container,
        ),
    ])
}

/// A directory that everybody may enter.
fn open_directory() -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("ebusy-untrusted-").tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn plant(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The configuration of a container of a pod, in that cgroup.
fn config(cgroups_path: &str) -> String {
    format!(
        r#"{{"ociVersion": "1.1.0", "root": {{"path": "rootfs"}}, "linux": {{"cgroupsPath": "{cgroups_path}"}},
            "annotations": {{"io.kubernetes.cri.sandbox-name": "payments-db-0",
            "io.kubernetes.cri.sandbox-namespace": "prod", "io.kubernetes.cri.sandbox-uid": "{POD}", "io.kubernetes.cri.container-name": "postgres",
            "io.kubernetes.cri.container-type": "container"}}}}"#
    )
}

/// A file system with all files of a runtime, and the root file system of a container mounted in it.
struct DataRoot {
    path: PathBuf,
    rootfs: PathBuf,
}

impl DataRoot {
    /// As containerd has it, or Docker.
    fn mount(path: &Path, docker: bool) -> Result<Self> {
        fs::create_dir_all(path)?;
        mount(
            "ebusy-data",
            path,
            "tmpfs",
            MountFlags::empty(),
            Some(c"mode=755"),
        )?;
        let rootfs = if docker {
            plant(
                &path.join("containers").join(ID).join("config.v2.json"),
                r#"{"Name": "/web", "Config": {"Image": "nginx", "Labels": {}}}"#,
            )?;
            // Others that have run there.
            let layers = path.join("image/overlay2/layerdb/mounts");
            plant(&layers.join(ID).join("mount-id"), OTHER)?;
            for other in 0..50 {
                plant(&layers.join(format!("{other:064x}/mount-id")), "gone")?;
            }
            path.join("overlay2").join(OTHER).join("merged")
        } else {
            let bundle = path.join(TASKS).join("k8s.io").join(ID);
            plant(&bundle.join("config.json"), &config("/x"))?;
            plant(&bundle.join("options.json"), "{}")?;
            bundle.join("rootfs")
        };
        fs::create_dir_all(&rootfs)?;
        mount("ebusy-rootfs", &rootfs, "tmpfs", MountFlags::empty(), None)?;
        Ok(Self {
            path: path.to_owned(),
            rootfs,
        })
    }

    /// Unmounts both, with that time in between; returns true if both succeeded at once.
    fn umount(&self, between: Duration) -> Result<bool> {
        let mut first = try_umount(&self.rootfs)?;
        pause::takes(between, "what a runtime does between two umounts");
        first &= try_umount(&self.path)?;
        if !first {
            for path in [&self.rootfs, &self.path] {
                let gone = || Ok(unmount(path, UnmountFlags::empty()).is_ok().then_some(()));
                pause::until(PATIENCE, gone).ok();
            }
        }
        Ok(first)
    }
}

fn try_umount(path: &Path) -> Result<bool> {
    match unmount(path, UnmountFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("umount of {}", path.display())),
    }
}

/// Data roots on file systems of their own, each unmounted right after its only container, at every moment at which
/// ebusy may look for its owner.
fn no_umount_fails_because_of_ebusy() -> Result<Verdict> {
    let directory = open_directory()?;
    let watch = Watch::start(&["--all".into()])?;
    let mut refused = Vec::new();
    for turn in 0..400_u32 {
        let docker = turn % 2 == 0;
        let path = directory
            .path()
            .join("lib")
            .join(if docker { "docker" } else { "state" });
        let root = DataRoot::mount(&path, docker)?;
        // The time that ebusy took when it still read the files of a container at its mount.
        let (life, most) = if docker { (15_000, 4_000) } else { (8_000, 1_500) };
        pause::takes(Duration::from_micros(life), "how long a container lives");
        if !root.umount(Duration::from_micros(u64::from(turn) * 379 % most))? {
            refused.push(turn);
        }
    }
    ensure!(
        refused.is_empty(),
        "refused in the turns {refused:?}\n{}",
        watch.log()
    );
    let (incidents, _) = watch.finish()?;
    let ours = ebusy::below(directory.path(), incidents);
    ensure!(ours.is_empty(), "{ours:#?}");
    Ok(Verdict::Passed)
}

/// Facts read about a container before any umount appear in a later incident.
fn a_container_that_stays_is_read_about() -> Result<Verdict> {
    let directory = open_directory()?;
    let watch = Watch::targets(&[directory.path().join("**")])?;
    let root = DataRoot::mount(&directory.path().join("lib/state"), false)?;
    let holding = Holding::start(
        "hold-fd-directory",
        Namespace::Same,
        std::slice::from_ref(&root.rootfs),
    )?;
    pause::takes(
        Duration::from_millis(400),
        "how long a container lives until it is read about",
    );
    harness::settle()?;
    ensure!(!try_umount(&root.rootfs)?, "the umount was not refused");
    harness::settle()?;
    holding.release()?;
    ensure!(root.umount(Duration::ZERO)?, "still busy after the release");
    let incident = watch.wait_for_incident(&root.rootfs, PATIENCE)?;
    let found = incident.target.container.and_then(|container| container.name);
    ensure!(found.as_deref() == Some("postgres"), "{found:?}\n{}", watch.log());
    watch.finish()?;
    Ok(Verdict::Passed)
}

/// Every verb ends, with any object in place of a runtime's file.
fn files_that_make_wait() -> Result<Verdict> {
    let directory = open_directory()?;
    let fifo = |path: &Path| -> Result<()> {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .with_context(|| format!("making the FIFO {}", path.display()))
    };
    let device = |path: &Path| Ok(symlink("/dev/zero", path)?);
    // Below the superuser's directories and below one that everybody may write in, made by root and by another user.
    for (turn, (mode, file, make)) in [
        (0o755, "options.json", &fifo as &dyn Fn(&Path) -> Result<()>),
        (0o755, "config.json", &fifo),
        (0o755, "config.json", &device),
        (0o777, "options.json", &fifo),
        (0o777, "config.json", &fifo),
        (0o777, "options.json", &device),
    ]
    .into_iter()
    .enumerate()
    {
        let state = directory.path().join(format!("state-{turn}"));
        let bundle = state.join(TASKS).join("default/x");
        fs::create_dir_all(bundle.join("rootfs"))?;
        make(&bundle.join(file))?;
        fs::set_permissions(&state, fs::Permissions::from_mode(mode))?;
        mount(
            "ebusy-rootfs",
            bundle.join("rootfs"),
            "tmpfs",
            MountFlags::empty(),
            None,
        )?;
        if mode == 0o777 {
            for path in [&state, &bundle, &bundle.join("rootfs")] {
                chown(path, Some(NOBODY), Some(NOBODY))?;
            }
        }
    }
    let capture = directory.path().join("capture");
    let path = directory
        .path()
        .join("state-0")
        .join(TASKS)
        .join("default/x/rootfs");
    let path = path.to_str().context("a path of text")?;
    for arguments in [&["who"][..], &["who", path], &["who", "x"], &["audit"]] {
        let mut command = ebusy::command(arguments[0])?;
        let running = Running::start(command.args(&arguments[1..]))?;
        let status = running.wait().with_context(|| format!("{arguments:?}"))?;
        let finished = running.finished(status)?;
        ensure!(
            status.code().is_some_and(|code| code <= 2),
            "{arguments:?}: {finished:?}"
        );
    }
    for arguments in [
        vec!["watch", "--no-capture"],
        vec!["record", "-o", capture.to_str().context("text")?],
    ] {
        let mut command = ebusy::command(arguments[0])?;
        let running = Running::start(command.args(&arguments[1..]))?;
        running
            .wait_for("watching")
            .with_context(|| format!("{arguments:?}"))?;
        running.signal(rustix::process::Signal::TERM)?;
        running.wait().with_context(|| format!("{arguments:?}"))?;
    }
    Ok(Verdict::Passed)
}

/// In namespaces of their own, anybody may mount anything anywhere.
fn a_mount_that_has_the_path_of_a_container() -> Result<Verdict> {
    let directory = open_directory()?;
    let bundle = directory.path().join("state").join(TASKS).join("k8s.io").join(ID);
    plant(&bundle.join("config.json"), &config("/x"))?;
    let rootfs = bundle.join("rootfs");
    fs::create_dir(&rootfs)?;
    mount("ebusy-rootfs", &rootfs, "tmpfs", MountFlags::empty(), None)?;

    let watch = Watch::start(&["--all".into()])?;
    let script = format!(
        "mount -t tmpfs ebusy-false {0} && echo mounted && read -r line && exec 3<{0} && ! umount {0} 2>/dev/null && \
            echo refused && read -r line && exec 3<&- && umount {0}",
        rootfs.display()
    );
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["unshare", "-Urm", "sh", "-c", &script]);
    let mut user = Helper::from_command(&mut command)?;
    let Ok(said) = user.line() else {
        return Ok(Verdict::Skipped(
            "not everybody may make user namespaces".to_owned(),
        ));
    };
    ensure!(said == "mounted", "{said}");
    harness::settle()?;
    user.say("go")?;
    ensure!(user.line()? == "refused", "the umount was not refused");
    harness::settle()?;
    user.say("go")?;
    user.finish()?;
    let holding = Holding::start(
        "hold-fd-directory",
        Namespace::Same,
        std::slice::from_ref(&rootfs),
    )?;
    ensure!(!try_umount(&rootfs)?, "the umount was not refused");
    harness::settle()?;
    holding.release()?;
    ensure!(try_umount(&rootfs)?, "still busy after the release");
    let (incidents, log) = watch.finish()?;
    let ours = ebusy::below(directory.path(), incidents);
    let of = |source: &str| {
        let found = ours
            .iter()
            .find(|incident| incident.target.source.as_deref() == Some(source));
        found.with_context(|| format!("no incident of {source}: {ours:#?}\n{log}"))
    };
    let known = of("ebusy-rootfs")?.target.container.as_ref();
    ensure!(known.is_some_and(|known| known.id == ID), "{ours:#?}\n{log}");
    let claimed = of("ebusy-false")?;
    ensure!(claimed.target.container.is_none(), "{claimed:#?}");
    Ok(Verdict::Passed)
}

/// A cgroup belongs to a container at the place where its runtime made it, and not where another user made one of that
/// name.
fn a_cgroup_that_has_the_name_of_a_container() -> Result<Verdict> {
    let directory = open_directory()?;
    let tree = directory.path().join("cgroup");
    fs::create_dir(&tree)?;
    if let Err(error) = mount("none", &tree, "cgroup2", MountFlags::empty(), None) {
        return Ok(Verdict::Skipped(format!("no second version of cgroups: {error}")));
    }
    let root = format!("ebusy-test-{}", std::process::id());
    let bundle = directory.path().join("state").join(TASKS).join("k8s.io").join(ID);
    plant(
        &bundle.join("config.json"),
        &config(&format!("/{root}/pod{POD}/{ID}")),
    )?;
    let rootfs = bundle.join("rootfs");
    fs::create_dir(&rootfs)?;
    mount("ebusy-rootfs", &rootfs, "tmpfs", MountFlags::empty(), None)?;

    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let made = Cgroups {
        tree: tree.clone(),
        root: root.clone(),
    };
    // In its own cgroup, in one of a user that has its name, and in one of an unknown container in the pod.
    let (own, false_one, unknown) = (
        made.hold(&scratch, &format!("pod{POD}/{ID}"), "file")?,
        made.hold(
            &scratch,
            &format!("user-65534.slice/cri-containerd-{ID}.scope"),
            "second",
        )?,
        made.hold(&scratch, &format!("pod{POD}/{OTHER}"), "dir/file")?,
    );
    let (code, answers) = who(scratch.path())?;
    ensure!(code == 1, "{code}: {answers:#?}");
    let of = |holding: &Holding| container_of(&answers, holding.claimed.ready.pid);
    let pod = |container: &Container| container.pod.clone();
    let found = of(&own)?.context("no container of the process in its cgroup")?;
    ensure!(
        !found.unproven && found.id == ID && pod(found).as_deref() == Some("payments-db-0"),
        "{found:#?}"
    );
    let found = of(&false_one)?;
    ensure!(found.is_none(), "{found:#?}");
    let found = of(&unknown)?.context("no container of the process in a cgroup of the pod")?;
    ensure!(
        found.unproven && found.id == OTHER && pod(found).as_deref() == Some("payments-db-0"),
        "{found:#?}"
    );
    for holding in [own, false_one, unknown] {
        holding.release()?;
    }
    drop(made);
    Ok(Verdict::Passed)
}

fn container_of(answers: &[Who], pid: u32) -> Result<Option<&Container>> {
    let holders = answers.iter().flat_map(|answer| &answer.holders);
    let mut processes = holders.filter_map(|holder| holder.process.as_ref());
    let process = processes.find(|process| process.pid == pid);
    let process = process.with_context(|| format!("{pid} is not named: {answers:#?}"))?;
    Ok(process.container.as_ref())
}

/// Cgroups of a test, removed with it.
struct Cgroups {
    tree: PathBuf,
    root: String,
}

impl Cgroups {
    /// A process in that cgroup with an open file.
    fn hold(&self, scratch: &Scratch, cgroup: &str, file: &str) -> Result<Holding> {
        let cgroup = self.tree.join(&self.root).join(cgroup);
        fs::create_dir_all(&cgroup)?;
        let holding = Holding::start("hold-fd", Namespace::Same, &[scratch.join(file)])?;
        fs::write(cgroup.join("cgroup.procs"), holding.claimed.ready.pid.to_string())?;
        Ok(holding)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let root = self.tree.join(&self.root);
        let below = |directory: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir())
                .collect()
        };
        for outer in below(&root) {
            for inner in below(&outer) {
                let _ = fs::remove_dir(inner);
            }
            let _ = fs::remove_dir(outer);
        }
        let _ = fs::remove_dir(root);
        let _ = unmount(&self.tree, UnmountFlags::DETACH);
    }
}
