//! Slots: mounts in the target's place under the peers and slaves of its parent mount. The kernel looks at the target
//! first, then at them, and stops at the first that is busy.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::{Watch, who},
    expect::{Expectation, Expected, Problems},
    harness::{self, Verdict},
    holder::Holding,
    namespace::Namespace,
    scratch::{FileSystem, Scratch},
    steps::{hold_fd, nothing_told, refused, release, told, told_and_asked, watched},
    umounter::Umounter,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};

pub(crate) fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (name, namespace) in [
        ("peer", Namespace::Shared),
        ("slave", Namespace::Slave),
        ("slave_of_a_slave", Namespace::Nested),
        ("user_namespace", Namespace::User),
    ] {
        tests.push(harness::test(format!("{name}::fd"), move || {
            in_namespace(namespace, "hold-fd", &["file"])
        }));
        tests.push(harness::test(format!("{name}::cwd"), move || {
            in_namespace(namespace, "hold-cwd", &["dir"])
        }));
        tests.push(harness::test(format!("{name}::idle"), move || idle(namespace)));
    }
    tests.extend([
        harness::test("covered_copy", covered_copy),
        harness::test("covered_copy::user_of_the_cover", user_of_the_cover),
        harness::test("copy_with_a_child_is_skipped", copy_with_a_child_is_skipped),
        harness::test("unrelated_mount", unrelated_mount),
        harness::test("namespace_kept_by_a_descriptor", namespace_kept_by_a_descriptor),
        harness::test("namespace_kept_by_a_bind_mount", namespace_kept_by_a_bind_mount),
        harness::test("recursive_bind", recursive_bind),
        harness::test("private_parent", private_parent),
        harness::test("target_and_two_slots", target_and_two_slots),
        harness::test("slots_of_every_relation", slots_of_every_relation),
        harness::test("umount_by_a_peer", umount_by_a_peer),
        harness::test("umount_by_a_slave", umount_by_a_slave),
    ]);
    // Each keeps to a mount of its own, and waits most of the time.
    harness::main_side_by_side(tests, 4)
}

/// One attempt is refused because of the expected holders; `who` agrees; it succeeds after the release.
fn explains(scratch: &Scratch, watch: Watch, expected: Expected, holding: Holding) -> Result<Verdict> {
    refused(scratch, 1)?;
    let expectation = Expectation::released(scratch, vec![expected]);
    told_and_asked(&expectation, watch, [holding])?;
    Ok(Verdict::Passed)
}

/// Nobody blocks, `who` says so, and the umount succeeds.
fn does_not_block(expectation: &Expectation<'_>, watch: Watch, holding: Holding) -> Result<Verdict> {
    let scratch = expectation.scratch;
    let (code, answers) = who(scratch.path())?;
    ensure!(scratch.umount()?, "the umount was refused");
    nothing_told(watch)?;
    holding.release()?;
    expectation.check_who(code, &answers).context("who")?;
    Ok(Verdict::Passed)
}

fn in_namespace(namespace: Namespace, program: &str, paths: &[&str]) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Overlay)?;
    let paths: Vec<PathBuf> = paths.iter().map(|path| scratch.join(path)).collect();
    let holding = Holding::start(program, namespace, &paths)?;
    let expected = Expected::on_copy(&holding);
    explains(&scratch, watch, expected, holding)
}

/// A copy that nobody uses goes with the target.
fn idle(namespace: Namespace) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let other = tempfile::tempdir()?;
    let file = other.path().join("file");
    fs::write(&file, "x")?;
    let elsewhere = Holding::start("hold-fd", namespace, &[file])?;
    does_not_block(&Expectation::released(&scratch, Vec::new()), watch, elsewhere)
}

/// Something is mounted on the root of the copy: up to Linux 6.12 the kernel counts it and allows for it, from 7.2 on
/// it does not count it (`propagate_mount_busy` in fs/pnode.c). The file below blocks either way.
fn covered_copy() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let paths = [scratch.join("file"), scratch.join(".")];
    let holding = Holding::start("hold-fd-covered", Namespace::Slave, &paths)?;
    let expected = Expected::on_copy(&holding);
    explains(&scratch, watch, expected, holding)
}

/// A user of only the mount that covers the copy does not block.
fn user_of_the_cover() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-fd-on-top", Namespace::Slave, &[scratch.join(".")])?;
    does_not_block(&Expectation::released(&scratch, Vec::new()), watch, holding)
}

/// The kernel does not look at a copy with a mount on one of its directories: it stays, whether it is used or not.
fn copy_with_a_child_is_skipped() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let paths = [scratch.join("file"), scratch.join("dir")];
    let holding = Holding::start("hold-fd-covered", Namespace::Slave, &paths)?;
    let stays = Expected {
        through: "propagated_copy",
        ..Expected::bystander(&holding)
    };
    let expectation = Expectation {
        bystanders: vec![stays],
        ..Expectation::released(&scratch, Vec::new())
    };
    does_not_block(&expectation, watch, holding)
}

/// The kernel checks any mount in the target's place, even of another file system.
fn unrelated_mount() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-fd-unrelated", Namespace::Slave, &[scratch.join("file")])?;
    let expected = Expected::on_copy(&holding).at_once();
    explains(&scratch, watch, expected, holding)
}

/// A namespace without a process keeps its copies; a descriptor that was opened in it keeps them busy.
fn namespace_kept_by_a_descriptor() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = Holding::start("hold-fd-left", Namespace::Same, &[scratch.join("file")])?;
    let expected = Expected::on_copy(&holding).at_once();
    explains(&scratch, watch, expected, holding)
}

fn namespace_kept_by_a_bind_mount() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    // The kernel lets nobody propagate a mount namespace.
    let private = Stage::new(MountPropagationFlags::PRIVATE)?;
    let keep = private.path().join("mnt");
    fs::write(&keep, "")?;
    let holding = Holding::start("hold-fd-left", Namespace::Same, &[scratch.join("file"), keep])?;
    let expected = Expected::on_copy(&holding).at_once();
    explains(&scratch, watch, expected, holding)
}

/// A tmpfs that mounts can be made below, with a propagation of its own.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new(propagation: MountPropagationFlags) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-stage-").tempdir()?;
        mount(
            "ebusy-stage",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            None,
        )?;
        let stage = Self(directory);
        mount_change(stage.path(), propagation)?;
        Ok(stage)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        while unmount(self.0.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// In the same namespace: the directory above the target is bound elsewhere, and the target with it.
fn recursive_bind() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let elsewhere = tempfile::Builder::new().prefix("ebusy-rbind-").tempdir()?;
    mount_bind_recursive(scratch.directory(), elsewhere.path())?;
    let run = || {
        let path = elsewhere.path().join("target/file");
        let mut holding = Holding::start("hold-fd", Namespace::Same, &[path])?;
        // Both lead to the same place in the file system.
        holding.claimed.paths = vec![scratch.join("file")];
        let expected = Expected::on_copy(&holding);
        explains(&scratch, watch, expected, holding)
    };
    let result = run();
    unmount(elsewhere.path(), UnmountFlags::DETACH)?;
    result
}

/// The propagation of the parent decides: with a private one, a busy peer of the target does not matter.
fn private_parent() -> Result<Verdict> {
    let stage = Stage::new(MountPropagationFlags::PRIVATE)?;
    let scratch = Scratch::within(stage.path(), OsStr::new("target"), FileSystem::Tmpfs)?;
    mount_change(scratch.path(), MountPropagationFlags::SHARED)?;
    let watch = Watch::targets(&[scratch.path()])?;
    let holding = hold_fd(&scratch, Namespace::Shared, "file")?;
    let expectation = Expectation {
        bystanders: vec![Expected::bystander(&holding)],
        propagation: "private",
        ..Expectation::released(&scratch, Vec::new())
    };
    does_not_block(&expectation, watch, holding)
}

/// The kernel checks the target first and counts its references; the slots remain, and have their turn one by one.
fn target_and_two_slots() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let target = hold_fd(&scratch, Namespace::Same, "file")?;
    let first = hold_fd(&scratch, Namespace::Slave, "second")?;
    let second = hold_fd(&scratch, Namespace::User, "third")?;
    refused(&scratch, 1)?;
    let (code, answers) = who(scratch.path())?;
    Expectation::released(
        &scratch,
        vec![
            Expected::on_target(&target),
            Expected::on_copy(&first).remaining(),
            Expected::on_copy(&second).remaining(),
        ],
    )
    .check_who(code, &answers)
    .context("who, first")?;
    harness::settle()?;
    let former_target = Expected::on_target(&target).former();
    target.release()?;

    refused(&scratch, 1)?;
    harness::settle()?;
    let former_first = Expected::on_copy(&first).for_attempts(2).former();
    first.release()?;

    refused(&scratch, 1)?;
    let expectation = Expectation {
        attempts: 3,
        bursts: None,
        ..Expectation::released(
            &scratch,
            vec![
                Expected::on_copy(&second).for_attempts(3),
                former_target,
                former_first,
            ],
        )
    };
    told(&expectation, watch, [second])?;
    Ok(Verdict::Passed)
}

/// Peer, slave, slave of a slave, user namespace: the kernel counted one of them, the others remain, and each is named.
fn slots_of_every_relation() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let namespaces = [
        Namespace::Shared,
        Namespace::Slave,
        Namespace::Nested,
        Namespace::User,
    ];
    let holdings = namespaces
        .into_iter()
        .map(|namespace| hold_fd(&scratch, namespace, "file"))
        .collect::<Result<Vec<_>>>()?;
    refused(&scratch, 1)?;
    // The kernel may meet any of them first.
    let orders: Vec<_> = (0..holdings.len())
        .map(|guilty| {
            let holders = holdings.iter().enumerate().map(|(index, holding)| {
                let expected = Expected::on_copy(holding);
                if index == guilty {
                    expected
                } else {
                    expected.remaining()
                }
            });
            Expectation::released(&scratch, holders.collect())
        })
        .collect();
    release(&scratch, holdings)?;
    let (incidents, _) = watch.finish()?;
    if !orders.iter().any(|order| order.check_only(&incidents).is_ok()) {
        orders[0].check_only(&incidents)?;
    }
    Ok(Verdict::Passed)
}

/// A process in a namespace of its own tries once.
fn umounter(scratch: &Scratch, namespace: Namespace) -> Result<Umounter> {
    let options = ["--mntns".as_ref(), namespace.name().as_ref()];
    Umounter::run(&options, scratch.path(), (1, 0), &[])
}

/// The umount of the peer of the host's mount is refused because of a file that is open on the host's.
fn umount_by_a_peer() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let umounter = umounter(&scratch, Namespace::Shared)?.expect_refused(1)?;
    harness::settle()?;
    let (incidents, _) = watch.finish()?;
    let pid = holding.claimed.ready.pid;
    release(&scratch, [holding])?;
    // The caller's namespace goes with it: if that happened before ebusy could look, there is nothing to show.
    ensure!(incidents.len() <= 1, "{incidents:#?}");
    let Some(incident) = incidents.first() else {
        return Ok(Verdict::Passed);
    };
    let mut problems = Problems::default();
    problems.equal("caller", &incident.caller.pid, &umounter.pid);
    problems.check(
        incident.target.mount_namespace != Some(scratch.mount_namespace()),
        || "the target is in the caller's namespace".to_owned(),
    );
    // The namespace is gone with the caller, perhaps before ebusy has looked; nobody else is blamed.
    for holder in &incident.holders {
        let process = holder.process.as_ref().map(|process| process.pid);
        problems.equal("holder", &process, &Some(pid));
        problems.equal("through", &holder.through.as_str(), &"propagated_copy");
        problems.equal("mount", &holder.mount_id, &Some(scratch.mount_id()));
    }
    problems.into_result(incident)?;
    Ok(Verdict::Passed)
}

/// The umount of a slave does not check its master.
fn umount_by_a_slave() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let holding = hold_fd(&scratch, Namespace::Same, "file")?;
    let umounter = umounter(&scratch, Namespace::Slave)?;
    ensure!(umounter.refused == 0 && umounter.unmounted, "{umounter:?}");
    nothing_told(watch)?;
    release(&scratch, [holding])?;
    Ok(Verdict::Passed)
}
