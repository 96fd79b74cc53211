//! Programs that enter the mount namespace of a container and open files there: the incident shows how they entered.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use ebusy_tests::{
    ebusy::who,
    harness::{self, Verdict},
    holder::{Helper, program},
    namespace,
    report::{Entered, Holder},
    scratch::{FileSystem, Scratch},
    steps::{refused, watched},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

pub(crate) fn main() -> ExitCode {
    harness::main(vec![
        harness::test("entering_by_setns", || entering("setns")),
        harness::test("entering_by_proc_pid_root", || entering("root")),
        harness::test("entering_by_the_parent", entering_by_the_parent),
        harness::test("entering_unseen", entering_unseen),
    ])
}

const ID: &str = "ebusy-test-entered";

/// A namespace that has a container's root file system, and the target in a volume.
struct Container {
    helper: Helper,
    namespace: u32,
    rootfs: PathBuf,
    _directory: tempfile::TempDir,
}

impl Container {
    fn start(scratch: &Scratch) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebusy-entering-").tempdir()?;
        let rootfs = directory
            .path()
            .join("io.containerd.runtime.v2.task/ebusy-test")
            .join(ID)
            .join("rootfs");
        fs::create_dir_all(&rootfs)?;
        mount("ebusy-rootfs", &rootfs, "tmpfs", MountFlags::empty(), None)?;
        fs::create_dir(rootfs.join("host"))?;
        let arguments = [
            "container".as_ref(),
            rootfs.as_os_str(),
            scratch.directory().as_os_str(),
        ];
        let helper = Helper::start(&program("enterer")?, &arguments)?;
        Ok(Self {
            namespace: helper.line()?.parse()?,
            helper,
            rootfs,
            _directory: directory,
        })
    }

    /// Another program opens a file of the target's copy in there.
    fn open(&self, scratch: &Scratch, way: &str) -> Result<Helper> {
        let inside = scratch.join("file");
        let inside = inside.strip_prefix(scratch.directory())?;
        let path = PathBuf::from("/host").join(inside);
        let pid = self.helper.pid().to_string();
        let arguments = [way.as_ref(), pid.as_ref(), path.as_os_str()];
        let helper = Helper::start(&program("enterer")?, &arguments)?;
        ensure!(helper.line()?.parse::<u32>()? == namespace::current()?);
        Ok(helper)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = unmount(&self.rootfs, UnmountFlags::DETACH);
    }
}

fn of(holders: &[Holder], pid: u32) -> Result<&Holder> {
    let of_pid = |holder: &&Holder| holder.process.as_ref().is_some_and(|process| process.pid == pid);
    let found = holders.iter().find(of_pid);
    found.with_context(|| format!("no holder {pid}: {holders:#?}"))
}

fn way_in(holder: &Holder) -> Result<&Entered> {
    holder
        .entered
        .as_ref()
        .with_context(|| format!("no way in: {holder:#?}"))
}

fn entering(way: &str) -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let container = Container::start(&scratch)?;
    harness::settle()?;
    let holding = container.open(&scratch, way)?;
    let pid = holding.pid();
    harness::settle()?;
    refused(&scratch, 1)?;
    harness::settle()?;
    holding.finish()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let (incidents, log) = watch.finish()?;
    ensure!(incidents.len() == 1, "{incidents:#?}\n{log}");
    let holder = of(&incidents[0].holders, pid)?;
    let entered = way_in(holder)?;
    ensure!(
        incidents[0].holders.len() == 1
            && holder.through == "propagated_copy"
            && holder.mount_namespace == Some(container.namespace)
            && entered.namespace == container.namespace
            && entered.time.is_some(),
        "{incidents:#?}"
    );
    let own = namespace::current()?;
    let whose = entered.container.as_ref().map(|container| container.id.as_str());
    if way == "setns" {
        ensure!(
            entered.operation == "setns"
                && whose == Some(ID)
                // If the kernel does not show it, ebusy does not guess.
                && entered.from.is_none_or(|from| from == own)
                && entered.time <= holder.opened,
            "{holder:#?}"
        );
    } else {
        ensure!(
            entered.operation == "outside"
                && whose.is_none()
                && entered.from == Some(own)
                && entered.time == holder.opened,
            "{holder:#?}"
        );
    }
    Ok(Verdict::Passed)
}

/// A program enters, and its child opens: the way in is that of the parent.
fn entering_by_the_parent() -> Result<Verdict> {
    let (scratch, watch) = watched(FileSystem::Tmpfs)?;
    let container = Container::start(&scratch)?;
    harness::settle()?;
    let inside = scratch.join("file");
    let path = PathBuf::from("/host").join(inside.strip_prefix(scratch.directory())?);
    let pid = container.helper.pid().to_string();
    let arguments = ["child".as_ref(), pid.as_ref(), path.as_os_str()];
    let parent = Helper::start(&program("enterer")?, &arguments)?;
    let child: u32 = parent.line()?.parse()?;
    harness::settle()?;
    refused(&scratch, 1)?;
    harness::settle()?;
    let entered_by = parent.pid();
    parent.finish()?;
    ensure!(scratch.umount()?, "still busy after the release");
    let (incidents, log) = watch.finish()?;
    ensure!(incidents.len() == 1, "{incidents:#?}\n{log}");
    let holder = of(&incidents[0].holders, child)?;
    let entered = way_in(holder)?;
    let by = entered.by.as_ref().map(|by| (by.pid, by.comm.as_str()));
    let whose = entered.container.as_ref().map(|container| container.id.as_str());
    ensure!(
        by == Some((entered_by, "enterer"))
            && entered.operation == "setns"
            && entered.namespace == container.namespace
            && whose == Some(ID)
            && entered.time <= holder.opened,
        "{holder:#?}"
    );
    Ok(Verdict::Passed)
}

/// Before ebusy came: that it is outside can be seen, that it entered at some time cannot.
fn entering_unseen() -> Result<Verdict> {
    let scratch = Scratch::new(FileSystem::Tmpfs)?;
    let container = Container::start(&scratch)?;
    let inside = container.open(&scratch, "setns")?;
    let outside = container.open(&scratch, "root")?;
    let (_, answers) = who(scratch.path())?;
    let answer = answers.first().context("an answer")?;
    let holder = of(&answer.holders, inside.pid())?;
    ensure!(holder.entered.is_none(), "{holder:#?}");
    let holder = of(&answer.holders, outside.pid())?;
    let entered = way_in(holder)?;
    ensure!(
        entered.operation == "outside"
            && entered.time.is_none()
            && entered.namespace == container.namespace
            && entered.from == Some(namespace::current()?),
        "{holder:#?}"
    );
    inside.finish()?;
    outside.finish()?;
    Ok(Verdict::Passed)
}
