//! `ebusy audit` finds the planted problems, prints the fixes, and finds nothing once those were applied.

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    audit::{Audit, Found, Ours, command_in},
    ebusy::{binary, command, run, who},
    harness::{self, Verdict},
    holder::{Holding, Skip},
    namespace::Namespace,
    report::{Fix, pasted},
    schema,
    scratch::{FileSystem, Scratch},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

const ID: &str = "5d1ea5ed00000000000000000000000000000000000000000000000000000001";

pub(crate) fn main() -> ExitCode {
    // Before Linux 6.0 the kernel's table of UNIX sockets is found through one without a name, and a bare machine has none.
    let _sockets = UnixStream::pair();
    harness::main(vec![
        harness::test("nothing", nothing),
        harness::test("slave_copy_can_pin", slave_copy_can_pin),
        harness::test("open_file_on_a_slave_copy_is_told_now", open_file_on_a_slave_copy),
        harness::test("second_mount_in_the_same_namespace", second_mount),
        harness::test("stuck_container", stuck_container),
        harness::test("case_10_private_copy_of_a_volume", private_copy),
        harness::test("case_10_shm_of_a_container_that_is_gone", leaked_shm),
        harness::test("case_17_network_namespace", network_namespace),
        harness::test("case_31_device_stays_busy", device_stays_busy),
        harness::test("case_33_stale_namespace", stale_namespace),
        harness::test("case_37_namespace_kept_by_a_descriptor", kept_by_a_descriptor),
        harness::test("namespace_kept_by_a_bind_mount", kept_by_a_bind_mount),
        harness::test("detached", detached),
        harness::test("tier_proc_does_not_say_that_there_is_nothing", tier_proc),
        harness::test("fits_a_screen", fits_a_screen),
    ])
}

/// A process in a namespace of its own, which uses nothing of the mount.
fn elsewhere(namespace: Namespace) -> Result<(Holding, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    fs::write(&file, "x")?;
    Ok((Holding::start_at_once("hold-fd", namespace, &[file])?, directory))
}

fn pid(holding: &Holding) -> u32 {
    holding.claimed.ready.pid
}

fn ours(scratch: &Scratch) -> Ours {
    Ours {
        below: vec![scratch.directory().to_owned()],
        detached: vec![scratch.mount_id()],
        pids: Vec::new(),
    }
}

/// Follows an advice; a machine may have neither `sh` nor `nsenter`.
fn follow(fixes: &[Fix], word: &str) -> Result<()> {
    let line = command_in(fixes, word)?;
    let status = pasted(line).status();
    let status = status.map_err(|error| Skip {
        skip: format!("sh: {error}"),
    })?;
    if status.code() == Some(127) {
        return Err(Skip {
            skip: format!("no {word}"),
        }
        .into());
    }
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// A tmpfs at a path below the directory of a scratch, as a runtime would have it; dropping this value removes it.
struct Planted(PathBuf);

impl Planted {
    fn tmpfs(scratch: &Scratch, path: &str) -> Result<Self> {
        let path = scratch.directory().join(path);
        fs::create_dir_all(&path)?;
        mount("ebusy-planted", &path, "tmpfs", MountFlags::empty(), None)?;
        fs::write(path.join("file"), "x")?;
        Ok(Self(path))
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        while unmount(&self.0, UnmountFlags::DETACH).is_ok() {}
    }
}

fn nothing() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    ensure!(audit.watched >= 1, "{audit:#?}");
    audit.expect(Found::default())?;
    ensure!(scratch.umount()?, "busy");
    Ok(Verdict::Passed)
}

fn slave_copy_can_pin() -> Result<Verdict> {
    for (namespace, propagation) in [(Namespace::Slave, "slave"), (Namespace::Shared, "shared")] {
        let scratch = Scratch::new(FileSystem::Tmpfs)?;
        let (holding, _directory) = elsewhere(namespace)?;
        let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
        audit.expect(Found {
            can_pin: 1,
            ..Found::default()
        })?;
        let group = &audit.can_pin[0];
        ensure!(group.pid() == Some(pid(&holding)), "{group:#?}");
        ensure!((group.mounts, group.in_use) == (1, 0), "{group:#?}");
        ensure!(group.copies[0].path == scratch.path(), "{group:#?}");
        ensure!(
            group.copies[0].propagation.as_deref() == Some(propagation),
            "{group:#?}"
        );
        if namespace == Namespace::Slave {
            follow(&group.fixes, "nsenter")?;
            Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
        }
        ensure!(scratch.umount()?, "an idle copy refused the umount");
        holding.release()?;
    }
    Ok(Verdict::Passed)
}

/// The umount is refused; once the file is closed, it is not, and the copy is idle.
fn open_file_on_a_slave_copy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let agent = ebusy_tests::holder::Waiting::start("hold-fd", Namespace::Slave)?;
    let agent_pid = agent.pid();
    let holding = agent.proceed(&[scratch.join("file")])?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    audit.expect(Found {
        now: 1,
        can_pin: 1,
        ..Found::default()
    })?;
    let now = &audit.now[0];
    ensure!(
        now.holders.len() == 1 && now.unexplained == Some(0) && !now.stuck,
        "{now:#?}"
    );
    let holder = &now.holders[0];
    let by = holder.process.as_ref().map(|process| process.pid);
    ensure!(
        by == Some(agent_pid) && holder.path == "/file" && holder.refs == 2,
        "{holder:#?}"
    );
    ensure!(audit.can_pin[0].in_use == 1, "{audit:#?}");
    ensure!(!scratch.umount()?, "not busy");
    // Follow its advice: close the file.
    follow(&now.fixes, "kill")?;
    drop(holding);
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
    ensure!(scratch.umount()?, "busy");
    Ok(Verdict::Passed)
}

/// The directory above the target is bound elsewhere, with all below it.
fn second_mount() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let other = tempfile::Builder::new().prefix("ebusy-rbind-").tempdir()?;
    rustix::mount::mount_bind_recursive(scratch.directory(), other.path())?;
    let run = || {
        let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
        audit.expect(Found {
            can_pin: 1,
            ..Found::default()
        })?;
        ensure!(audit.can_pin[0].workload.same_namespace, "{audit:#?}");
        ensure!(
            audit.can_pin[0].copies[0].path == other.path().join("target"),
            "{audit:#?}"
        );
        Ok(())
    };
    let result = run();
    unmount(other.path(), UnmountFlags::DETACH)?;
    result?;
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
    Ok(Verdict::Passed)
}

/// No process is left, but the runtime has its bundle still.
fn stuck_container() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let task = format!("io.containerd.runtime.v2.task/k8s.io/{ID}");
    let rootfs = Planted::tmpfs(&scratch, &format!("{task}/rootfs"))?;
    let config = r#"{"ociVersion":"1.0.2","process":{"args":["x"]},"root":{"path":"rootfs"},"annotations":{
        "io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"main",
        "io.kubernetes.cri.sandbox-name":"stuck-pod","io.kubernetes.cri.sandbox-namespace":"ci"}}"#;
    fs::write(scratch.directory().join(&task).join("config.json"), config)?;
    let (holding, _directory) = elsewhere(Namespace::Slave)?;
    let audit = Audit::of(&ours(&scratch), &[])?;
    audit.expect(Found {
        now: 1,
        can_pin: 1,
        ..Found::default()
    })?;
    let now = &audit.now[0];
    let container = now.target.container.as_ref().context("a container")?;
    ensure!(
        now.stuck && now.holders.is_empty() && now.unexplained == Some(0),
        "{now:#?}"
    );
    ensure!(
        container.id == ID && container.pod.as_deref() == Some("stuck-pod"),
        "{container:#?}"
    );
    ensure!(audit.can_pin[0].pid() == Some(pid(&holding)), "{audit:#?}");
    follow(&now.fixes, "umount /")?;
    Audit::of(&ours(&scratch), &[])?.expect(Found::default())?;
    drop(rootfs);
    holding.release()?;
    Ok(Verdict::Passed)
}

/// The umount succeeds and the copy stays; one that receives umounts goes with it.
fn private_copy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let (holding, _directory) = elsewhere(Namespace::Private)?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    audit.expect(Found {
        can_leak: 1,
        ..Found::default()
    })?;
    let group = &audit.can_leak[0];
    ensure!(
        group.pid() == Some(pid(&holding)) && group.in_use == 0,
        "{group:#?}"
    );
    ensure!(
        group.copies[0].propagation.as_deref() == Some("private"),
        "{group:#?}"
    );
    ensure!(group.fixes[0].text.contains("slave"), "{group:#?}");
    holding.release()?;
    // With a namespace that receives umounts, as advised, an idle copy goes.
    let (holding, _directory) = elsewhere(Namespace::Slave)?;
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found {
        can_pin: 1,
        ..Found::default()
    })?;
    ensure!(scratch.umount()?, "an idle copy refused the umount");
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// A monitor's copy of the shm of a container that is gone: on the host, and then only with the monitor.
fn leaked_shm() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let shm = Planted::tmpfs(&scratch, &format!("io.containerd.grpc.v1.cri/sandboxes/{ID}/shm"))?;
    let (holding, _directory) = elsewhere(Namespace::Private)?;
    let audit = Audit::of(&ours(&scratch), &[])?;
    audit.expect(Found {
        leaked: 1,
        ..Found::default()
    })?;
    let leaked = &audit.leaked[0];
    ensure!(leaked.what == "shm" && leaked.places.len() == 2, "{leaked:#?}");
    ensure!(unmount(&shm.0, UnmountFlags::empty()).is_ok(), "busy");
    let audit = Audit::of(&ours(&scratch), &[])?;
    audit.expect(Found {
        leaked: 1,
        ..Found::default()
    })?;
    let leaked = &audit.leaked[0];
    let workload = leaked.places[0]
        .workload
        .as_ref()
        .and_then(|workload| workload.process.as_ref());
    ensure!(leaked.places.len() == 1, "{leaked:#?}");
    ensure!(
        workload.is_some_and(|process| process.pid == pid(&holding)),
        "{leaked:#?}"
    );
    follow(&leaked.fixes, "nsenter")?;
    Audit::of(&ours(&scratch), &[])?.expect(Found::default())?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// A file of nsfs that a pod's network namespace is bound to, and a copy of that.
fn network_namespace() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let directory = Planted::tmpfs(&scratch, "run/netns")?;
    let name = directory.0.join("cni-5d1ea5ed-0000-4000-8000-000000000001");
    fs::write(&name, "")?;
    let (end, ended) = mpsc::channel::<()>();
    let (say, bound) = mpsc::channel();
    let at = name.clone();
    let user = thread::spawn(move || {
        // SAFETY: no file descriptor table is unshared.
        let made = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        let made = made.and_then(|()| mount_bind("/proc/thread-self/ns/net", &at));
        let _ = say.send(made);
        let _ = ended.recv();
    });
    bound.recv()?.context("bind a network namespace")?;
    let (holding, _directory) = elsewhere(Namespace::Private)?;
    let audit = Audit::of(&ours(&scratch), &[])?;
    // A thread is in it: it has a user.
    audit.expect(Found {
        can_leak: 1,
        ..Found::default()
    })?;
    ensure!(audit.can_leak[0].pid() == Some(pid(&holding)), "{audit:#?}");
    drop(end);
    ensure!(
        user.join().is_ok(),
        "the thread in the network namespace panicked"
    );
    let audit = Audit::of(&ours(&scratch), &[])?;
    audit.expect(Found {
        leaked: 1,
        ..Found::default()
    })?;
    let leaked = &audit.leaked[0];
    ensure!(
        leaked.what == "network namespace" && leaked.places.len() == 2,
        "{leaked:#?}"
    );
    ensure!(unmount(&name, UnmountFlags::empty()).is_ok(), "busy");
    follow(
        &Audit::of(&ours(&scratch), &[])?
            .leaked
            .first()
            .context("a leak")?
            .fixes,
        "nsenter",
    )?;
    Audit::of(&ours(&scratch), &[])?.expect(Found::default())?;
    fs::remove_file(&name)?;
    holding.release()?;
    Ok(Verdict::Passed)
}

/// True if nobody else has the block device open.
fn is_free(device: &str) -> Result<bool> {
    match rustix::fs::open(
        device,
        OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(_) => Ok(true),
        Err(Errno::BUSY | Errno::NXIO) => Ok(false),
        Err(error) => Err(error).context(device.to_owned()),
    }
}

/// The file system of a device is unmounted, and the device is busy still, until the advice was followed.
fn device_stays_busy() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Ext2)?;
    let (holding, _directory) = elsewhere(Namespace::Private)?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    audit.expect(Found {
        can_leak: 1,
        ..Found::default()
    })?;
    ensure!(scratch.umount()?, "busy");
    ensure!(!is_free(scratch.source())?, "the device is free");
    follow(&audit.can_leak[0].fixes, "nsenter")?;
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
    // A loop device releases its file once nobody has it open.
    let backing = Path::new("/sys/block")
        .join(scratch.source().trim_start_matches("/dev/"))
        .join("loop/backing_file");
    ensure!(
        !backing.exists() || is_free(scratch.source())?,
        "the device is busy still"
    );
    holding.release()?;
    Ok(Verdict::Passed)
}

/// A process that stays in a namespace from before: `nsenter` and `umount` there frees the file system.
fn stale_namespace() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Overlay)?;
    let stale = Holding::start_at_once("hold-fd", Namespace::Private, &[scratch.join("file")])?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    audit.expect(Found {
        can_leak: 1,
        ..Found::default()
    })?;
    let group = &audit.can_leak[0];
    ensure!(
        (group.pid(), group.in_use) == (Some(pid(&stale)), 1),
        "{group:#?}"
    );
    let holder = &group.copies[0].holders[0];
    ensure!(
        holder.kind == "fd" && holder.through == "private_copy",
        "{holder:#?}"
    );
    // The file is open: the copy is only detached, and lives on until the file is closed.
    follow(&group.fixes, "nsenter")?;
    let gone = Ours {
        detached: vec![stale.claimed.ready.mount_id],
        ..ours(&scratch)
    };
    let audit = Audit::of(&gone, &[scratch.path()])?;
    audit.expect(Found {
        detached: 1,
        ..Found::default()
    })?;
    ensure!(audit.detached[0].mounted_elsewhere, "{audit:#?}");
    stale.release()?;
    Audit::of(&gone, &[scratch.path()])?.expect(Found::default())?;
    ensure!(scratch.umount()?, "busy");
    Ok(Verdict::Passed)
}

fn kept_by_a_descriptor() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let holding = Holding::start_at_once("hold-namespace", Namespace::Same, &[scratch.join("file")])?;
    let ours = Ours {
        pids: vec![pid(&holding)],
        ..ours(&scratch)
    };
    let audit = Audit::of(&ours, &[scratch.path()])?;
    audit.expect(Found {
        can_leak: 1,
        namespaces: 1,
        ..Found::default()
    })?;
    let kept = &audit.namespaces[0];
    ensure!(
        kept.kept_by.len() == 1 && kept.kept_by[0].kind == "fd" && kept.watched == 1,
        "{kept:#?}"
    );
    ensure!(audit.can_leak[0].mount_namespaces == [kept.number], "{audit:#?}");
    ensure!(audit.can_leak[0].pid().is_none(), "{audit:#?}");

    // Once it is unmounted, the path is there only; `who` finds it.
    ensure!(scratch.umount()?, "busy");
    let (code, answers) = who(scratch.path())?;
    ensure!(
        code == 0 && answers.len() == 1,
        "exit status {code}, {answers:#?}"
    );
    ensure!(
        answers[0].target.mount_namespace == Some(kept.number),
        "{answers:#?}"
    );

    follow(&kept.fixes, "kill")?;
    drop(holding);
    Audit::of(&ours, &[scratch.path()])?.expect(Found::default())?;
    Ok(Verdict::Passed)
}

fn kept_by_a_bind_mount() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    // The kernel lets nobody propagate a mount namespace.
    let directory = Planted::tmpfs(&scratch, "keep")?;
    mount_change(&directory.0, MountPropagationFlags::PRIVATE)?;
    let keep = directory.0.join("mnt");
    fs::write(&keep, "")?;
    let holding = Holding::start_at_once(
        "hold-fd-left",
        Namespace::Same,
        &[scratch.join("file"), keep.clone()],
    )?;
    let audit = Audit::of(&ours(&scratch), &[scratch.path()])?;
    // It is a slave, in which a file is open.
    audit.expect(Found {
        now: 1,
        can_pin: 1,
        namespaces: 1,
        ..Found::default()
    })?;
    let kept = &audit.namespaces[0];
    let bind = kept
        .kept_by
        .iter()
        .find(|keeper| keeper.kind == "bind_mount")
        .context("a bind mount")?;
    ensure!(bind.path.as_ref() == Some(&keep), "{kept:#?}");
    ensure!(!scratch.umount()?, "not busy");
    holding.release()?;
    Audit::of(&ours(&scratch), &[scratch.path()])?.expect(Found::default())?;
    ensure!(scratch.umount()?, "busy");
    Ok(Verdict::Passed)
}

/// Its last references are a file and a working directory.
fn detached() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let file = Holding::start_at_once("hold-fd", Namespace::Same, &[scratch.join("file")])?;
    let directory = Holding::start_at_once("hold-cwd", Namespace::Same, &[scratch.join("dir")])?;
    ensure!(
        scratch.umount_with(UnmountFlags::DETACH)?,
        "detached mounts are never busy"
    );
    let audit = Audit::of(&ours(&scratch), &[])?;
    audit.expect(Found {
        detached: 1,
        ..Found::default()
    })?;
    let found = &audit.detached[0];
    let mut holders: Vec<_> = found
        .holders
        .iter()
        .map(|holder| {
            (
                holder.kind.as_str(),
                holder.process.as_ref().map(|process| process.pid),
            )
        })
        .collect();
    holders.sort_unstable();
    ensure!(
        holders == [("cwd", Some(pid(&directory))), ("fd", Some(pid(&file)))],
        "{found:#?}"
    );
    ensure!(
        found.unexplained == Some(0) && !found.mounted_elsewhere,
        "{found:#?}"
    );
    // Five files of five pages.
    let bytes = found.bytes.context("the size of a tmpfs")?;
    ensure!((100_000..1_000_000).contains(&bytes), "{bytes}");
    file.release()?;
    let audit = Audit::of(&ours(&scratch), &[])?;
    ensure!(audit.detached[0].holders.len() == 1, "{audit:#?}");
    directory.release()?;
    Audit::of(&ours(&scratch), &[])?.expect(Found::default())?;
    Ok(Verdict::Passed)
}

fn tier_proc() -> Result<Verdict> {
    let finished = run(Command::new(binary()?).args(["audit", "--probe", "proc", "--format", "json"]))?;
    let code = finished.status.code();
    ensure!(
        code == Some(3) || code == Some(1),
        "{code:?}\n{}",
        finished.stderr
    );
    let audit: Audit = schema::read(str::from_utf8(&finished.stdout)?)?;
    ensure!(audit.probe == "proc" && audit.own.is_none(), "{audit:#?}");
    for section in ["can_pin", "can_leak", "detached", "namespaces", "own"] {
        ensure!(
            audit.blind.iter().any(|blind| blind == section),
            "{section}: {audit:#?}"
        );
    }
    Ok(Verdict::Passed)
}

/// Thirty mounts, and who has copies of them.
fn fits_a_screen() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let planted = (0..30)
        .map(|number| Planted::tmpfs(&scratch, &format!("many/{number}")))
        .collect::<Result<Vec<_>>>()?;
    let namespaces = [
        Namespace::Slave,
        Namespace::Slave,
        Namespace::Private,
        Namespace::Private,
    ];
    let others = namespaces
        .into_iter()
        .map(elsewhere)
        .collect::<Result<Vec<_>>>()?;
    let _open = File::open(planted[3].0.join("file"))?;
    let mut command = command("audit")?;
    let finished = run(command.arg("--target").arg(scratch.directory().join("many/*")))?;
    finished.expect_code(1)?;
    let text = String::from_utf8(finished.stdout)?;
    ensure!(
        text.lines().count() <= 40 && text.lines().all(|line| line.chars().count() <= 110),
        "{text}"
    );
    for label in ["AUDIT", "NOW", "PIN", "LEAK", "OWN"] {
        ensure!(
            text.lines().any(|line| line.starts_with(label)),
            "{label}: {text}"
        );
    }
    for (holding, _) in others {
        holding.release()?;
    }
    Ok(Verdict::Passed)
}
